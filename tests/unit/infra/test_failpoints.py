"""Failpoints kill a process where a test wants it, and nowhere else."""

import signal
import subprocess
import sys

import pytest

from tradesaga.infra.errors import CommandError
from tradesaga.infra.failpoints import VARIABLE, Failpoint, arm, listen, reach

_PROGRAM = """
from tradesaga.infra.failpoints import Failpoint, arm, reach
arm()
for number in (1, 2, 3):
    reach(Failpoint.BEFORE_COMMIT)
    reach(Failpoint.AFTER_COMMIT)
    print(number, flush=True)
"""


def test_a_process_dies_when_it_gets_there_the_nth_time() -> None:
    """The kill is a SIGKILL: no handler runs, nothing is flushed."""
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env={VARIABLE: "after_commit:2"}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "1\n")


def test_nothing_happens_without_a_wish() -> None:
    """Production sets no variable, and no failpoint does anything."""
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], env={}, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "1\n2\n3\n")


@pytest.mark.parametrize("wish", ["nowhere:1", "after_commit:soon"])
def test_a_wish_that_cannot_be_met_is_refused(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    """A misspelt failpoint must not make a fault run that tests nothing."""
    monkeypatch.setenv(VARIABLE, wish)
    with pytest.raises(CommandError, match="after_commit"):
        arm()


def test_a_listener_hears_only_while_it_listens() -> None:
    """The listener of before is back when the context has closed."""
    heard: list[Failpoint] = []
    with listen(heard.append):
        reach(Failpoint.IN_CLAIM)
    reach(Failpoint.IN_CLAIM)
    assert heard == [Failpoint.IN_CLAIM]
