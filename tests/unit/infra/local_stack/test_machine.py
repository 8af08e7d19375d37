"""What a stack is created with by the size of the machine, what a folder keeps, and what the user's choice changes."""

from pathlib import Path

import pytest

from tradesaga.infra.local_stack import assembly, machine
from tradesaga.infra.local_stack.assembly import StackOptions, bring_up
from tradesaga.infra.local_stack.state import StackState, read_state, write_state
from tradesaga.infra.settings import load_settings
from tradesaga.schemas.topics import PARTITIONS


class ServersError(Exception):
    """The servers do not start: everything before that has been decided."""


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA", "DATABASE_URL", "HOME", "PARTITIONS"):
        monkeypatch.delenv(f"TRADESAGA_{name}", raising=False)

    def fail(*_: object) -> StackState:
        raise ServersError

    monkeypatch.setattr(assembly, "start_servers", fail)


def partitions_after_up(home: Path) -> tuple[int, int]:
    """Return what `up` records before the servers start, and what later commands in the folder then read."""
    with pytest.raises(ServersError):
        bring_up(home, load_settings(home), StackOptions([]), print)
    return read_state(home).partitions, load_settings(home).partitions


@pytest.mark.parametrize(("cores", "partitions"), [(1, 3), (2, 3), (3, 12), (64, 12)])
def test_the_machine_decides_for_a_new_folder_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, partitions: int
) -> None:
    """Also if the folder moves to a machine of another size before its topics exist."""
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert partitions_after_up(tmp_path) == (partitions, partitions)
    monkeypatch.setattr(machine, "cores", lambda: 66 - cores)
    assert partitions_after_up(tmp_path) == (partitions, partitions)


def test_a_folder_of_an_earlier_release_keeps_its_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a broker and no number: its topics have twelve partitions, however small the machine is."""
    monkeypatch.setattr(machine, "cores", lambda: 1)
    write_state(tmp_path, StackState(kafka="127.0.0.1:1"))
    assert partitions_after_up(tmp_path) == (0, PARTITIONS)


@pytest.mark.parametrize(("name", "value", "partitions"), [("PARTITIONS", "5", 5), ("KAFKA", "127.0.0.1:1", 12)])
def test_the_machine_decides_nothing_about_a_setting_or_a_given_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, partitions: int
) -> None:
    """A given broker may have topics already, and clients elsewhere that have the default."""
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.setenv(f"TRADESAGA_{name}", value)
    assert partitions_after_up(tmp_path) == (0, partitions)


def test_the_setting_prevails_over_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the topics, which have another number, refuse it; the folder's number stays."""
    write_state(tmp_path, StackState(partitions=3))
    monkeypatch.setenv("TRADESAGA_PARTITIONS", "12")
    assert partitions_after_up(tmp_path) == (3, 12)
