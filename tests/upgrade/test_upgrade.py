"""The data of an earlier release is carried on: sagas end as they would have, and what was sealed stays proven."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tests.clusters.standby import programs
from tests.upgrade.capture import BALANCES, FIRST_PARKED
from tests.upgrade.restore import RELEASES, Recorded, restore, sagas
from tradesaga.infra.local_stack.servers import stop_servers
from tradesaga.infra.local_stack.state import read_state

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
RELEASE: Final = RELEASES / "2026-11-24"
COMMIT: Final = "532f1d0"
"""What was released that day."""
LIMIT: Final = 150.0
"""Seconds that a command, or all sagas together, may take."""
OPEN: Final = "SELECT count(*) FROM saga WHERE state IN ('IDLE', 'RUNNING', 'COMPENSATING')"


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A stack in a folder of its own, whose data is an earlier release's."""

    home: Path

    def run(
        self, *arguments: str, program: tuple[str, ...] = (sys.executable, "-m", "tradesaga.infra.cli.entry")
    ) -> str:
        """Run a command of the present code, or of another `program`, and return what it prints."""
        done = self.attempt(*arguments, program=program)
        logs = "\n".join(f"{log.name}: {log.read_text()[-600:]}" for log in (self.home / "logs").glob("*.log"))
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}\n{logs}"
        return done.stdout

    def attempt(
        self,
        *arguments: str,
        program: tuple[str, ...] = (sys.executable, "-m", "tradesaga.infra.cli.entry"),
        path: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever it exits with."""
        given = {key: value for key, value in os.environ.items() if not key.startswith("TRADESAGA_")}
        extra = {"TRADESAGA_HOME": str(self.home), "TRADESAGA_KAFKA_HEAP": "256m"}
        return subprocess.run(
            [*program, *arguments], env=given | extra | ({"PYTHONPATH": path} if path else {}), capture_output=True,
            text=True, timeout=LIMIT, check=False, cwd=path or None,
        )  # fmt: skip

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Read rows of the stack's database."""

        async def read() -> list[tuple[Any, ...]]:
            sql = await asyncpg.connect(read_state(self.home).database_url)
            try:
                return [tuple(row) for row in await sql.fetch(statement)]
            finally:
                await sql.close()

        return asyncio.run(read())

    def until(self, statement: str, wanted: int) -> None:
        """Wait until a count is what it should be."""
        ends = time.monotonic() + LIMIT
        while (found := self.rows(statement)[0][0]) != wanted:
            assert time.monotonic() < ends, f"{statement}: {found}, and {wanted} is wanted"
            time.sleep(0.3)


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    """Restore the release's data, and bring the present code up on it."""
    home = tmp_path_factory.mktemp("upgrade") / "stack"
    home.mkdir()
    state = restore(RELEASE, home)
    stack = Upgraded(home)
    try:
        stack.run("up", "-d", "--separate")
        yield stack
    finally:
        stack.attempt("down")
        stop_servers(home)
        if not Path(state.postgres.data).is_relative_to(home):
            shutil.rmtree(Path(state.postgres.data).parent)


@pytest.fixture(scope="module")
def ended(upgraded: Upgraded) -> Upgraded:
    """Let every saga come to its end; the record that cannot be folded is left out, as its operator decides."""
    ((topic, partition, offset),) = upgraded.rows(FIRST_PARKED)
    upgraded.run("release", topic, str(partition), str(offset), "discard", "--reason", "of another release", "--wait")
    upgraded.until(OPEN, 0)
    return upgraded


def test_sagas_end_as_they_would_have(ended: Upgraded) -> None:
    """Open, waiting, retrying, compensating, unanswered and parked sagas come to the ends the release gave them."""
    states = {str(saga_id): state for saga_id, state in ended.rows("SELECT saga_id, state FROM saga")}
    recorded = sagas(RELEASE)
    assert {name: states[each.saga_id] for name, each in recorded.items()} == {
        name: each.end for name, each in recorded.items()
    }
    assert len(states) == len(recorded)


def test_balances_are_what_the_release_would_have_booked(ended: Upgraded) -> None:
    """Every balance is the one that the release itself came to, and nothing stays on hold."""
    found = ["|".join(map(str, row)) for row in ended.rows(BALANCES)]
    assert found == (RELEASE / "balances.txt").read_text().splitlines()


def test_a_repeated_start_is_the_same_saga(ended: Upgraded) -> None:
    """A request that the release has taken is the same saga for the new code; a differing one is refused."""
    recorded = sagas(RELEASE)
    before = ended.rows(f"SELECT count(*) FROM saga_event WHERE saga_id = '{recorded['completed'].saga_id}'")
    for each in (recorded["completed"], recorded["busted"], recorded["resting"]):
        said = json.loads(_start(ended, each.request).stdout.splitlines()[0])
        assert said["saga_id"] == each.saga_id
    other = _start(ended, {**recorded["completed"].request, "quantity": "7"})
    assert "another request" in other.stdout + other.stderr, other
    assert before[0][0] >= 1
    assert ended.rows("SELECT count(*) FROM saga")[0][0] == len(recorded)


def _start(stack: Upgraded, request: dict[str, str]) -> subprocess.CompletedProcess[str]:
    file = stack.home / "again.jsonl"
    file.write_text(json.dumps(request) + "\n")
    return stack.attempt("start", "--file", str(file), "--json")


def test_new_trades_run_beside_them(ended: Upgraded) -> None:
    """A trade that is started after the upgrade completes."""
    said = json.loads(
        ended.run("start", "--account", "alice", "--symbol", "EUR/USD", "--side", "sell", "--quantity", "10", "--wait",
                  "--json").splitlines()[-1]
    )  # fmt: skip
    assert said.get("state", "COMPLETED") == "COMPLETED"


def test_seals_and_records_verify(ended: Upgraded) -> None:
    """The log is unaltered and complete across the upgrade, and the topics replay to the database's rows."""
    keys = ("--key", str(ended.home / "audit.key.pub"), "--witness", str(ended.home / "audit-witness.jsonl"))
    ended.run("audit", "verify", *keys)
    ended.run("audit", "replay")


def test_no_fact_of_the_release_is_taken_for_forged(ended: Upgraded) -> None:
    """What the release recorded, and how its sagas ended under the new code: each fact has its row.

    What does not agree is the trade that the venue busted after it was settled, 1000 EUR: a person has to book that.
    """
    found = json.loads(ended.attempt("reconcile", "--since", "2026-01-01", "--json").stdout)
    assert found["facts"]["forged"] == 0
    assert {(each["flaw"], each["subject"]) for each in found["discrepancies"]} == {
        ("venue_balance_differs", "EUR"), ("venue_balance_differs", "USD"),
    }  # fmt: skip
    ((compared,),) = ended.rows("SELECT count(*) FROM saga_event WHERE event_type NOT LIKE '%.venue-report.v1'")
    assert found["facts"]["checked"] > compared / 2
    keys = ("--key", str(ended.home / "audit.key.pub"), "--witness", str(ended.home / "audit-witness.jsonl"))
    verified = json.loads(ended.run("audit", "verify", *keys, "--json"))
    assert verified["forged_facts"]["forged"] == 0
    assert verified["forged_facts"]["facts"] == []


def test_an_export_of_the_release_verifies(upgraded: Upgraded) -> None:
    """An export that the release made is believed offline by the present code."""
    key = str(RELEASE / "stack" / "audit.key.pub")
    upgraded.run("audit", "verify", "--export", str(RELEASE / "export"), "--key", key, "--export-key", key)


@pytest.mark.full
def test_the_release_halts_on_the_new_schema(ended: Upgraded, tmp_path: Path) -> None:
    """The release itself, started on the upgraded data, neither migrates nor works, and says why in one sentence."""
    archive = tmp_path / "release"
    archive.mkdir()
    root = Path(__file__).parents[2]
    packed = subprocess.run(["git", "archive", COMMIT], cwd=root, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(archive)], input=packed, check=True)
    installed = str(tmp_path / "installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", installed, str(archive)], check=True,
    )  # fmt: skip
    migrating = ended.attempt("migrate", program=(sys.executable, "-m", "infra.command_line"), path=installed)
    assert migrating.returncode == 4, migrating
    assert "this database belongs to a later release of tradesaga" in migrating.stderr
    assert "Traceback" not in migrating.stderr
    with subprocess.Popen(
        [sys.executable, "-m", "infra.command_line", "run", "cash"], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "TRADESAGA_HOME": str(ended.home), "PYTHONPATH": installed},
        cwd=installed,
    ) as working:  # fmt: skip
        assert working.stdout is not None
        said = next(line for line in working.stdout if "later release" in line)
        owned = ended.rows(f"SELECT count(*) FROM lane WHERE owner LIKE '%:{working.pid}'")
        working.kill()
    assert "this database belongs to a later release of tradesaga" in said
    assert owned == [(0,)]


def test_the_recorded_release_has_every_kind_of_saga() -> None:
    """The data holds what an upgrade can meet, so that the tests above speak of it."""
    recorded: dict[str, Recorded] = sagas(RELEASE)
    assert {each.state for each in recorded.values()} == {
        "IDLE", "RUNNING", "COMPENSATING", "COMPLETED", "ABORTED", "FAILED",
    }  # fmt: skip
    dump = (RELEASE / "database.sql").read_text()
    assert all(
        f"COPY public.{table}" in dump for table in ("parked ", "ledger_account ", "audit_checkpoint ", "outbox_")
    )
    assert programs().exists()
