"""`tradesaga account`, `pause` and `resume` as a person or a script meets them."""

import asyncio
import json
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.conftest import Stack, fresh_database
from tests.sagas import small_saga
from tradesaga.consumers.participant import Participant
from tradesaga.infra.cli.entry import execute
from tradesaga.infra.postgres.database import session

pytestmark = pytest.mark.stack
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a command on a fresh database and gives its code and what it wrote."""
    monkeypatch.setenv("TRADESAGA_DATABASE_URL", database_url)

    def execute_one(*arguments: str) -> tuple[int, str, str]:
        code = execute(arguments)
        written = capsys.readouterr()
        return code, written.out, written.err

    return execute_one


def test_accounts_are_opened_funded_and_shown(run: Run) -> None:
    """What is paid in and out is in the list, and the same reference counts once."""
    assert json.loads(run("account", "create", "alice", "--fund", "USD=1000", "--json")[1]) == {
        "account": "alice", "new": True
    }  # fmt: skip
    assert not json.loads(run("account", "create", "alice", "--fund", "USD=1000", "--json")[1])["new"]
    for booked in (True, False):
        assert (
            json.loads(run("account", "fund", "alice", "EUR", "7.5", "--reference", "r", "--json")[1])["booked"]
            is booked
        )
    assert run("account", "withdraw", "alice", "USD", "400")[0] == 0
    (line,) = run("account", "list", "--json")[1].splitlines()
    assert json.loads(line) == {
        "account": "alice", "venue": "paper", "status": "open", "max_order_notional": "100000",
        "max_exposure": "1000000", "max_open_orders": 100,
        "balances": {"EUR available": "7.5", "EUR held": "0", "USD available": "600", "USD held": "0"},
    }  # fmt: skip
    assert "USD available 600" in run("account", "list", "alice")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "slug"),
    [
        (("account", "fund", "bob", "USD", "5"), 3, "account-unknown"),
        (("account", "close", "bob"), 3, "account-unknown"),
        (("account", "withdraw", "alice", "USD", "5"), 4, "insufficient-funds"),
        (("account", "fund", "alice", "USD", "0"), 2, "bad-amount"),
        (("account", "fund", "alice", "USD", "1e3"), 2, "bad-amount"),
        (("account", "fund", "alice", "usd", "1"), 2, "bad-asset"),
        (("account", "create", "al/ice"), 2, "bad-account"),
        (("account", "create", "alice", "--max-exposure", "NaN"), 2, "bad-amount"),
        (("pause", "account", "bob", "--reason", "x"), 3, "account-unknown"),
        (("pause", "venue", "moon", "--reason", "x"), 3, "venue-unknown"),
        (("pause", "saga", "0123456789", "--reason", "x"), 3, "not-found"),
        (("pause", "account", "alice"), 2, "usage"),
        (("resume", "account", "alice"), 3, "not-paused"),
    ],
)
def test_wrong_commands_are_explained(run: Run, arguments: tuple[str, ...], code: int, slug: str) -> None:
    """Each mistake has its exit code, and its slug on stderr for scripts."""
    run("account", "create", "alice")
    found, _, said = run(*arguments, "--json")
    assert (found, json.loads(said)["error"]["code"]) == (code, slug)


def test_pausing_is_listed_until_it_ends(run: Run) -> None:
    """A pause is kept with who and why, said anew by a second one, and gone after resume."""
    run("account", "create", "alice")
    assert run("pause", "account", "alice", "--reason", "first", "--operator", "ada")[0] == 0
    assert run("pause", "account", "alice", "--reason", "audit", "--operator", "eve")[0] == 0
    (line,) = run("pause", "--json")[1].splitlines()
    held = json.loads(line)
    assert (held["scope"], held["key"], held["operator"], held["reason"]) == ("account", "alice", "eve", "audit")
    assert run("resume", "account", "alice")[0] == 0
    assert run("pause")[1] == ""


def test_a_pause_reaches_the_databases_of_all_participants(
    run: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service of another saga that has a database of its own is paused with those of the trade."""
    module, made = ModuleType("shop"), small_saga("shop")
    module.__dict__["stock"] = Participant("stock", made)
    monkeypatch.setitem(sys.modules, "shop", module)
    monkeypatch.setenv("TRADESAGA_APP", "shop")
    run("account", "create", "alice")
    with fresh_database(stack) as url:
        monkeypatch.setenv("TRADESAGA_DATABASE_URL_STOCK", url)
        assert run("pause", "account", "alice", "--reason", "audit")[0] == 0
        assert asyncio.run(_paused(url)) == [("account", "alice")]
        assert len(run("pause", "--json")[1].splitlines()) == 1
        assert run("resume", "account", "alice")[0] == 0
        assert asyncio.run(_paused(url)) == []


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (("TRADESAGA_DATABASE_URL_STOCK", "postgresql://nobody@127.0.0.1:1/gone"), 5),
        (("TRADESAGA_APP", "no_such_module"), 3),
    ],
)
def test_a_pause_reaches_the_ledger_whatever_else_is_broken(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, str], code: int
) -> None:
    """It is the emergency brake: what fails is named at the end, and the command can be run again."""
    module, made = ModuleType("shop"), small_saga("shop")
    module.__dict__["stock"] = Participant("stock", made)
    monkeypatch.setitem(sys.modules, "shop", module)
    run("account", "create", "alice")
    monkeypatch.setenv("TRADESAGA_APP", "shop")
    monkeypatch.setenv(*broken)
    found, _, said = run("pause", "account", "alice", "--reason", "audit", "--json")
    assert (found, json.loads(said)["error"]["code"]) == (code, "partly-done")
    assert asyncio.run(_paused(database_url)) == [("account", "alice")]


async def _paused(url: str) -> list[tuple[str, str]]:
    async with session(url) as sql:
        return [(row["scope"], row["key"]) for row in await sql.fetch("SELECT scope, key FROM hold")]


def test_closing_and_opening_shows_in_the_list(run: Run) -> None:
    """A closed account is shown as such until it is opened again."""
    run("account", "create", "alice")
    for action, status in (("close", "closed"), ("open", "open")):
        assert run("account", action, "alice")[0] == 0
        assert json.loads(run("account", "list", "alice", "--json")[1])["status"] == status
