"""The runbook, run: every command of the document, on a stack whose servers and data are lost amid trades."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recovery.runbook import Ground, blocks
from tradesaga.infra.local_stack.postgres import make_owned, server_account

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """Give a stack with two accounts and a log archive; at the end print how long each command took."""
    folder = Path(tempfile.mkdtemp(prefix="tradesaga-runbook-"))
    folder.chmod(0o711)
    ground = Ground(folder)
    ground.home.mkdir(mode=0o711)
    for name in ("archive", "backup"):
        make_owned(folder / name, server_account())
    try:
        ground.sh('python -m tradesaga.infra.local_stack.servers --dir "$TRADESAGA_HOME" up')
        ground.run("archive")
        ground.sh("tradesaga account create alice --fund USD=1000000 --fund EUR=100000")
        ground.sh("tradesaga account create bob --fund USD=500")
        yield ground
    finally:
        ground.sh("tradesaga down")
        (Path("build") / "recovery.json").parent.mkdir(exist_ok=True)
        (Path("build") / "recovery.json").write_text(json.dumps(ground.took, indent=2))
        shutil.rmtree(folder)


def settle(ground: Ground, count: int) -> dict[str, int]:
    """Wait until all trades have ended; gives how."""
    until = time.monotonic() + 60
    while True:
        states = ground.states()
        if states.get("COMPLETED", 0) + states.get("ABORTED", 0) == sum(states.values()) >= count:
            return states
        assert time.monotonic() < until, states
        time.sleep(0.5)


def test_every_block_of_the_runbook_is_known_here() -> None:
    """A block that nobody runs is a promise that nobody keeps."""
    assert set(blocks()) == {"keep", "archive", "database", "restored", "topics"}


def test_the_runbook_brings_everything_back(ground: Ground) -> None:
    """No backup, an old backup, no topics: after each, old trades end, new ones too, and every cent agrees."""
    ground.start("first", 20, "--wait")
    ground.run("keep")
    ground.moment = ground.sh("psql -Atq $DATABASE -c 'SELECT clock_timestamp()'").strip()
    ground.start("second", 20)
    ground.archive()
    ground.strike(postgres=True)
    ground.run("restored")
    settle(ground, 20)

    ground.start("third", 20)
    ground.strike(postgres=True)
    ground.run("database")
    settle(ground, 20)

    ground.start("fourth", 20)
    ground.strike(kafka=True)
    ground.run("topics")
    settle(ground, 40)
    ground.start("fifth", 10, "--wait")
    ground.sh("tradesaga reconcile")
    held = json.loads(ground.sh("tradesaga account list alice --json"))["balances"]
    assert {held[name] for name in held if name.endswith("held")} <= {"0"}

    # After all that, the topics alone still make the same database, to every field that facts can tell.
    ground.run("keep")
    ground.sh("psql -q $DATABASE -c 'CREATE DATABASE again'")
    again = 'TRADESAGA_DATABASE_URL="${DATABASE%/*}/again" tradesaga'
    said = ground.sh(f'{again} migrate > /dev/null; {again} recover database --book "$BOOK" --compare "$DATABASE"')
    assert "0 differ" in said
