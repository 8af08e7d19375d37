"""Request hashes by command: who makes the keys, who asks for them, and starts repeated after a rotation."""

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from tests.doors import order, trade_of_its_own
from tests.e2e.test_servers_down import run
from tests.keys import HELD, ROTATED, keys_in
from tradesaga.infra.cli.entry import execute
from tradesaga.infra.errors import ExitCode
from tradesaga.infra.postgres.database import session
from tradesaga.infra.starts.accept import accept, make_start
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.messages.trade import TradeRequested

pytestmark = pytest.mark.stack
SERVICES = ("gateway", "intake", "signal-router")


@pytest.mark.parametrize("command", [*(("run", service) for service in SERVICES), ("start", "--file", os.devnull)])
async def test_a_door_without_keys_refuses_to_start(
    kafka: str, database_url: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """One sentence names the command that makes them, and where the file was looked for; exit 3."""
    code, error = await run(*command, HOME=str(tmp_path), KAFKA=kafka, DATABASE_URL=database_url)

    last = error.strip().splitlines()[-1]
    assert code == ExitCode.NOT_FOUND, error
    assert "run `tradesaga migrate`" in last
    assert str(tmp_path / "request.keys") in last
    assert "Traceback" not in error


@pytest.fixture
def configured(kafka: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point commands at the servers and at a folder of this test, which is returned."""
    for name, value in {"KAFKA": kafka, "DATABASE_URL": database_url, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(f"TRADESAGA_{name}", value)
    return tmp_path


def test_migrating_makes_the_key_once(configured: Path) -> None:
    """A database of the release before gets its key with its schema; whoever migrates again changes nothing."""
    path = configured / "request.keys"
    assert execute(["migrate"]) == ExitCode.FINE
    made = read_request_keys(path).keys
    assert execute(["migrate"]) == ExitCode.FINE
    assert read_request_keys(path).keys == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("held", HELD)
def test_the_start_command_finds_a_start_again(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], held: str
) -> None:
    """Across the upgrade and a rotation: `same`, and a conflict for another request under the key."""
    wanted = order(idempotency_key="k")
    keys_in(configured, ROTATED)
    with trade_of_its_own(os.environ["TRADESAGA_KAFKA"]) as saga:

        def find(*_: object) -> AnySaga:
            return saga

        async def store() -> None:
            async with session(os.environ["TRADESAGA_DATABASE_URL"]) as sql, sql.transaction():
                starts = [make_start(saga, TradeRequested.model_validate(wanted))]
                await accept(sql, saga, starts, keys=HELD[held], source="/test", now=0)

        monkeypatch.setattr("tradesaga.producers.start.command.find_saga", find)
        asyncio.run(store())
        file = configured / "requests.jsonl"
        file.write_text("".join(json.dumps({**wanted, "quantity": quantity}) + "\n" for quantity in ("1000", "7")))
        assert execute(["start", "--file", str(file), "--json"]) == ExitCode.REFUSED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["result"] for line in lines] == ["same", "conflict"]
