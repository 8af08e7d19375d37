"""Every way in, as a stranger uses it: command line, pipe, HTTP, and a Kafka client that knows nothing of us."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from confluent_kafka import Producer

from tests.broker import forget_saga
from tests.conftest import Stack
from tests.doors import order
from tests.waiting import until
from tradesaga.infra.ledger.accounts import NewAccount, book_payment, create_account
from tradesaga.infra.postgres.database import session
from tradesaga.schemas.identity import saga_id

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.xdist_group("trade")]


@dataclass(frozen=True, slots=True)
class Desk:
    """A running stack, and the commands as a user gives them."""

    home: Path
    environment: dict[str, str]
    kafka: str
    http: str

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run `tradesaga` to its end."""
        argv = [sys.executable, "-m", "tradesaga.infra.cli.entry", *arguments, "--dir", str(self.home)]
        return subprocess.run(argv, env=self.environment, input=stdin, capture_output=True, timeout=240, check=False)

    def show(self, saga: str) -> dict[str, Any]:
        """Read a saga from the HTTP API."""
        return httpx.get(f"{self.http}/v1/sagas/{saga}", timeout=30).json()

    def ended(self, saga: str) -> str:
        """Wait until a saga has ended, and give its state."""

        async def has_ended() -> bool:
            return self.show(saga).get("state") in {"COMPLETED", "ABORTED", "FAILED"}

        asyncio.run(until(has_ended, 60))
        return self.show(saga)["state"]


@pytest.fixture(scope="module")
def desk(stack: Stack, module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Bring the venue and all services up beside the run's servers, with one rich account."""
    home = tmp_path_factory.mktemp("desk") / "home"
    given = {"TRADESAGA_KAFKA": stack.kafka, "TRADESAGA_DATABASE_URL": module_database_url}
    # One process does the work of all: of hundreds of calls at once the last would wait for longer than a call may.
    given |= {"TRADESAGA_CALLS_IN_FLIGHT": "50"}
    desk = Desk(home, {**os.environ, **given}, stack.kafka, "")
    forget_saga(stack.kafka, "trade")
    try:
        up = desk.run("up", "-d", "--together", "--json")
        assert up.returncode == 0, up.stderr
        asyncio.run(open_account(module_database_url))
        yield Desk(home, desk.environment, stack.kafka, json.loads(up.stdout)["http"])
    finally:
        assert desk.run("down").returncode == 0


async def open_account(url: str) -> None:
    """Open an account with a million dollars."""
    async with session(url) as sql:
        await create_account(sql, NewAccount("alice", max_open_orders=1000))
        await book_payment(sql, "alice", "USD", Decimal(1_000_000), "opening")


def test_one_trade_from_the_command_line(desk: Desk) -> None:
    """`start --wait` trades and exits 0; one that no price can fill is taken back, and exits 1."""
    bought = desk.run(
        "start", "--account", "alice", "--symbol", "EUR/USD", "--side", "buy", "--quantity", "1000", "--wait", "--json"
    )
    assert bought.returncode == 0, bought.stderr
    told = json.loads(bought.stdout)
    assert (told["result"], told["state"]) == ("new", "COMPLETED")
    shown = desk.show(told["saga_id"])
    assert shown["completed_steps"] == [
        "validate_order", "reserve_funds", "check_risk", "place_order", "confirm_fill", "settle_trade",
    ]  # fmt: skip
    assert shown["context"]["trade-filled"]["quantity"] == "1000"
    unfilled = ("--quantity", "1000", "--limit", "0.5", "--time-in-force", "ioc", "--wait", "--json")
    away = desk.run("start", "--account", "alice", "--symbol", "EUR/USD", "--side", "buy", *unfilled)
    assert (away.returncode, json.loads(away.stdout)["state"]) == (1, "ABORTED")


def test_same_and_other_request_under_one_key(desk: Desk) -> None:
    """The same command again is the same saga and exits 0; another order under its key exits 4 and changes nothing."""
    options = ("--account", "alice", "--symbol", "EUR/USD", "--side", "buy", "--key", "once", "--json")
    answers = [desk.run("start", *options, "--quantity", quantity) for quantity in ("10", "10.0", "11")]
    assert [answer.returncode for answer in answers] == [0, 0, 4]
    first, again = (json.loads(answer.stdout) for answer in answers[:2])
    assert (first["result"], again["result"]) == ("new", "same")
    assert first["saga_id"] == again["saga_id"] == str(saga_id("trade", "alice", "once"))
    assert json.loads(answers[2].stderr)["error"]["code"] == "key-taken"
    assert desk.ended(first["saga_id"]) == "COMPLETED"
    assert desk.show(first["saga_id"])["context"]["trade-requested"]["quantity"] == "10"


@pytest.mark.parametrize("shape", ["lines", "array"])
def test_file_with_good_and_bad_requests(desk: Desk, tmp_path: Path, shape: str) -> None:
    """Good requests are started whatever stands beside them; each bad one is named by its number; exit 2."""
    good = [order(idempotency_key=f"{shape}-{number}", quantity="20") for number in range(300)]
    bad = [order(quantity=1), {"idempotency_key": "x"}]
    requests = [*good[:150], bad[0], *good[150:], bad[1], good[0]]
    text = json.dumps(requests) if shape == "array" else "\n".join(json.dumps(request) for request in requests)
    file = tmp_path / "requests"
    file.write_text(text)
    started = desk.run("start", "--file", str(file), "--wait", "--timeout", "100", "--json")
    assert started.returncode == 2, started.stderr
    told = sorted((json.loads(line) for line in started.stdout.splitlines()), key=lambda each: each["line"])
    assert [each["line"] for each in told] == list(range(1, 304))
    assert [(each["line"], each["reason"].split(":")[0]) for each in told if each["result"] == "invalid"] == [
        (151, "quantity"),
        (302, "account"),
    ]
    assert Counter(each["result"] for each in told) == {"new": 300, "invalid": 2, "same": 1}
    assert {each.get("state") for each in told if each["result"] != "invalid"} == {"COMPLETED"}


def test_stdin_and_its_errors(desk: Desk) -> None:
    """A pipe is read to its end; what is no JSON is named by its line on stderr."""
    lines = [json.dumps(order(quantity="20")), "", "nonsense", json.dumps(order(quantity="30"))]
    started = desk.run("start", "--file", "-", stdin="\n".join(lines).encode())
    assert started.returncode == 2
    assert [line.split()[1] for line in started.stdout.decode().splitlines()] == ["new", "new"]
    assert started.stderr.decode().startswith("line 3: the request is not acceptable JSON")


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ((), 2, "there is no request, or both a file and options"),
        (("--account", "alice", "--file", "-"), 2, "there is no request, or both a file and options"),
        (("--account", "alice"), 2, "symbol: Field required"),
        (("--file", "/nowhere/at/all"), 2, "the file cannot be read"),
        (("--saga", "loan", "--account", "alice"), 3, "there is no saga definition 'loan'"),
    ],
)
def test_misuse_is_one_sentence(desk: Desk, options: tuple[str, ...], code: int, told: str) -> None:
    """Wrong options end with their exit code and one sentence, and start nothing."""
    answer = desk.run("start", *options)
    assert (answer.returncode, answer.stdout) == (code, b"")
    assert told in answer.stderr.decode()
    assert len(answer.stderr.decode().splitlines()) == 1


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("TRADESAGA_KAFKA", "127.0.0.1:1", "kafka-unavailable"),
        ("TRADESAGA_DATABASE_URL", "postgresql://a:b@127.0.0.1:1/c", "database-unavailable"),
    ],
)
def test_servers_that_are_away_are_named(desk: Desk, variable: str, value: str, code: str) -> None:
    """Without Kafka or PostgreSQL nothing is started, and the command ends with exit code 5."""
    away = Desk(desk.home, {**desk.environment, variable: value}, desk.kafka, desk.http)
    answer = away.run("start", "--file", "-", "--json", stdin=json.dumps(order()).encode())
    assert (answer.returncode, answer.stdout) == (5, b"")
    assert json.loads(answer.stderr)["error"]["code"] == code


def test_plain_kafka_client_starts_trades(desk: Desk) -> None:
    """confluent-kafka, its default partitioner and any key: each start becomes the one saga that its content names."""
    producer = Producer({"bootstrap.servers": desk.kafka})
    wanted = [order(idempotency_key=uuid4().hex, quantity="20") for _ in range(60)]
    headers = {"ce_type": "trade.trade-requested.v1", "ce_id": "mine", "ce_source": "/a/desk", "ce_specversion": "1.0"}
    for number, request in enumerate([*wanted, *wanted]):
        value = json.dumps(request).encode()
        key = [None, b"k", f"key-{number}".encode()][number % 3]
        producer.produce("trade.starts", value=value, key=key, headers={**headers} if number % 2 else None)
    assert producer.flush(30) == 0
    ids = {str(saga_id("trade", request["account"], request["idempotency_key"])) for request in wanted}
    assert len(ids) == 60
    assert {desk.ended(each) for each in sorted(ids)} == {"COMPLETED"}
    page = httpx.get(f"{desk.http}/v1/sagas", params={"account": "alice", "limit": 500}, timeout=30).json()
    assert ids <= {row["saga_id"] for row in page["sagas"]}
    started = [event for event in desk.show(min(ids))["events"] if event["event_type"] == "trade.trade-requested.v1"]
    assert {event["error"] for event in started} == {None}
    assert len({event["headers"]["ce_id"] for event in started}) == 1


def test_trade_over_http(desk: Desk) -> None:
    """A trade posted to the API is the same saga under the same key as from the command line, and runs to its end."""
    request = order(idempotency_key="over-http", quantity="20")
    answer = httpx.post(f"{desk.http}/v1/trades", json=request, timeout=30)
    assert answer.status_code == 202
    again = desk.run("start", "--file", "-", "--json", stdin=json.dumps(request).encode())
    assert json.loads(again.stdout)["result"] == "same"
    assert desk.ended(answer.json()["saga_id"]) == "COMPLETED"
    assert answer.json()["state_url"] == f"/v1/sagas/{answer.json()['saga_id']}"
    assert desk.show(answer.json()["saga_id"])["events"][0]["event_type"] == "trade.trade-requested.v1"
