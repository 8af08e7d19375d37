"""What the venue refuses: wrong keys, signatures, times, and garbage; always as Binance's JSON, never as a 500."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from tests.integration.infra.paper_exchange.process import ADMIN_KEY, KEY, PaperProcess, small_market


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperProcess]:
    """Run one venue for all refusals: none of them may leave a trace."""
    folder = tmp_path_factory.mktemp("venue")
    process = PaperProcess(folder, small_market(folder)).start()
    yield process
    process.stop()


@pytest.fixture
async def paper(process: PaperProcess) -> AsyncIterator[PaperProcess]:
    """Give the venue, and see afterwards that it stands and that nothing has been traded."""
    yield process
    ledger = await process.ledger()
    assert ledger["trades"] == []
    assert ledger["breaks"] == []
    assert (await process.send("GET", "ping")).status == 200


def now() -> int:
    """Give the time in milliseconds."""
    return time.time_ns() // 1_000_000


async def test_key_is_needed_and_known(paper: PaperProcess) -> None:
    """No key and an unknown key have codes of their own."""
    missing = await paper.send("POST", "order?symbol=EURUSD", key=None)
    unknown = await paper.call("GET", "account", key="nobody")

    assert (missing.status, missing.code) == (401, -2014)
    assert (unknown.status, unknown.code) == (401, -2015)


async def test_signature_is_needed_and_right(paper: PaperProcess) -> None:
    """A wrong secret, a changed parameter and no signature at all are refused."""
    forged = await paper.call("GET", "account", secret="not it")
    unsigned = await paper.send("GET", f"account?timestamp={now()}")
    changed = await paper.send("GET", f"account?timestamp={now()}&signature={'0' * 64}")
    foreign = await paper.send("GET", f"account?timestamp={now()}&signature={quote('ä')}")

    assert [one.code for one in (forged, unsigned, changed, foreign)] == [-1022, -1102, -1022, -1022]


async def test_signature_covers_the_body(paper: PaperProcess) -> None:
    """Parameters may come in query and body; both are signed."""
    answer = await paper.send(
        "POST", "order?symbol=EURUSD", content=f"side=BUY&timestamp={now()}&signature={'0' * 64}".encode()
    )

    assert answer.code == -1022


@pytest.mark.parametrize(
    ("shift", "window", "code"),
    [(-10_000, 5_000, -1021), (-6_000, None, -1021), (5_000, 5_000, -1021), (0, 60_001, -1131)],
    ids=["expired", "expired by default", "from the future", "window too long"],
)
async def test_time_window_is_kept(paper: PaperProcess, shift: int, window: int | None, code: int) -> None:
    """A request is good from a second before its timestamp until recvWindow after it."""
    answer = await paper.place("late", timestamp=now() + shift, recvWindow=window)

    assert (answer.status, answer.code) == (400, code)
    assert (await paper.call("GET", "order", symbol="EURUSD", origClientOrderId="late")).code == -2013


async def test_time_window_is_checked_when_the_order_takes_effect(paper: PaperProcess) -> None:
    """An order that waits too long inside the venue is refused, and never exists."""
    await paper.fault(kind="latency", operations=["place"], milliseconds=300, next=1)

    answer = await paper.place("slow", recvWindow=100)

    assert answer.code == -1021
    assert (await paper.call("GET", "order", symbol="EURUSD", origClientOrderId="slow")).code == -2013


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"symbol": None}, -1102),
        ({"symbol": "NONE"}, -1121),
        ({"side": "HOLD"}, -1117),
        ({"type": "STOP_LOSS"}, -1116),
        ({"type": "LIMIT", "timeInForce": "FOK", "price": "1"}, -1115),
        ({"type": "LIMIT", "timeInForce": "GTC"}, -1102),
        ({"type": "MARKET", "price": "1"}, -1106),
        ({"quoteOrderQty": "100"}, -1106),
        ({"quantity": None}, -1102),
        ({"quantity": "NaN"}, -1100),
        ({"quantity": "-5"}, -1100),
        ({"quantity": "1e5"}, -1100),
        ({"quantity": "Infinity"}, -1100),
        ({"quantity": "\u0661\u0660"}, -1100),
        ({"quantity": "0.0000000001"}, -1111),
        ({"quantity": "99999999999999999999"}, -1130),
        ({"quantity": "9" * 200}, -1100),
        ({"newClientOrderId": "x" * 37}, -1100),
        ({"newClientOrderId": "a b"}, -1100),
        ({"newClientOrderId": "'; DROP TABLE orders; --"}, -1100),
        ({"newOrderRespType": "EVERYTHING"}, -1136),
        ({"timestamp": "soon"}, -1100),
        ({"timestamp": "9" * 18}, -1021),
        ({"recvWindow": "-1"}, -1100),
    ],
)  # fmt: skip
async def test_malformed_order_is_refused_by_name(paper: PaperProcess, change: dict[str, Any], code: int) -> None:
    """Each wrong parameter has its code, and leaves nothing behind."""
    before = len((await paper.ledger())["orders"])

    answer = await paper.place("wrong", **change)

    assert (answer.status, answer.code) == (400, code), answer
    assert len((await paper.ledger())["orders"]) == before


@pytest.mark.parametrize(
    ("name", "order", "reason"),
    [
        ("tick", {"price": "1.000001"}, "PRICE_FILTER"),
        ("zero", {"price": "0"}, "PRICE_FILTER"),
        ("high", {"price": "1001"}, "PRICE_FILTER"),
        ("lot", {"price": "1", "quantity": "10.5"}, "LOT_SIZE"),
        ("none", {"price": "1", "quantity": "0"}, "LOT_SIZE"),
        ("many", {"price": "1", "quantity": "1000001"}, "LOT_SIZE"),
        ("small", {"price": "1", "quantity": "9"}, "NOTIONAL"),
    ],
)
async def test_filters_reject_and_remember(paper: PaperProcess, name: str, order: dict[str, Any], reason: str) -> None:
    """An order against tick, lot or notional is rejected, and so for good: its name is used up."""
    first = await paper.place(name, **order)
    again = await paper.place(name, **order)
    found = await paper.call("GET", "order", symbol="EURUSD", origClientOrderId=name)

    assert (first.status, first.code, first.body["msg"]) == (400, -1013, f"Filter failure: {reason}")
    assert (again.code, again.body["msg"]) == (-2010, "Duplicate order sent.")
    assert (found.body["status"], found.body["rejectReason"]) == ("REJECTED", f"Filter failure: {reason}")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "klines?symbol=EURUSD&interval=7w"),
        ("GET", "klines?symbol=EURUSD&interval=1h&limit=0"),
        ("GET", "klines?symbol=EURUSD&interval=1h&startTime=x"),
        ("GET", "depth?symbol=EURUSD&limit=100000"),
        ("GET", "exchangeInfo?symbols=[[[[["),
        ("GET", "exchangeInfo?symbols=" + quote("[" * 2000)),
        ("GET", "ticker/price?symbol=%00%ff"),
        ("GET", "time?a=1&a=2"),
        ("GET", "time?" + "&".join(f"p{n}=1" for n in range(200))),
        ("GET", "nothing/here"),
        ("PATCH", "order"),
        ("PUT", "userDataStream?listenKey=unknown"),
    ],
)
async def test_garbage_is_refused(paper: PaperProcess, method: str, path: str) -> None:
    """Wrong paths and values end as a 4xx with a code and a sentence."""
    answer = await paper.send(method, path)

    assert 400 <= answer.status < 500
    assert answer.code < 0
    assert answer.body["msg"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300))
async def test_any_bytes_are_refused(process: PaperProcess, body: bytes) -> None:
    """Whatever bytes come as an order, the answer is a refusal."""
    answer = await process.send("POST", "order", content=body)

    assert 400 <= answer.status < 500
    assert answer.code < 0


async def test_huge_body_is_cut_off(paper: PaperProcess) -> None:
    """A body beyond 64 KiB is refused without being kept."""
    answer = await paper.send("POST", "order", content=b"a=" + b"x" * 1_000_000)

    assert answer.status == 413


NONSENSE: list[tuple[str, Any]] = [
    ("faults", {"kind": "earthquake"}),
    ("faults", {"kind": "latency", "milliseconds": -1}),
    ("faults", {"kind": "reject", "probability": 2}),
    ("faults", {"kind": "reject", "client_order_id": "("}),
    ("faults", [[[[[[]]]]]]),
    ("faults", None),
    ("market", {"speed": "NaN"}),
    ("market", {"step": -1}),
    ("market", {"symbol": "NONE"}),
    ("bust", {"tradeId": 12345}),
    ("bust", {"tradeId": "x"}),
    ("accounts", {"name": "a b", "key": "k", "secret": "s"}),
    ("accounts", {"name": "desk", "key": "another", "secret": "s"}),
    ("accounts", {"name": "rich", "key": "k", "secret": "s", "balances": {"USD": "1e30"}}),
    ("deposits", {"account": "nobody", "asset": "USD", "amount": "1"}),
    ("deposits", {"account": "desk", "asset": "USD", "amount": "-1"}),
]


@pytest.mark.parametrize(("path", "body"), NONSENSE)
async def test_admin_refuses_what_cannot_be(paper: PaperProcess, path: str, body: object) -> None:
    """Admin requests are validated as strictly as orders."""
    answer = await paper.admin("POST", path, body)

    assert answer["code"] < 0
    assert answer["msg"]


async def test_admin_needs_its_key(paper: PaperProcess) -> None:
    """Without the admin key nobody reads the ledger or plants faults, not even with an account's key."""
    assert "breaks" not in await paper.text("/paper/ledger")
    assert (await paper.send("POST", "../../paper/faults", content=b"{}")).code < 0
    assert ADMIN_KEY != KEY


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "7", '"x"', "[" * 5000, '{"id":1}', '{"id":1,"method":"order.place","params":[]}', "x" * 20_000,
     '{"id":{},"method":"userDataStream.subscribe.signature","params":{"apiKey":[1]}}'],
)  # fmt: skip
async def test_garbage_on_the_websocket_is_refused(paper: PaperProcess, text: str) -> None:
    """The WebSocket API answers garbage with an error, and goes on."""
    async with connect(paper.url.replace("http", "ws") + "/ws-api/v3") as socket:
        await socket.send(text)
        refused = orjson.loads(await socket.recv())
        await socket.send('{"id":2,"method":"ping"}')
        answered = orjson.loads(await socket.recv())

    assert refused["error"]["code"] < 0
    assert answered == {"id": 2, "status": 200, "result": {}}


async def test_websocket_survives_bytes(paper: PaperProcess) -> None:
    """A binary frame ends its own connection alone."""
    async with connect(paper.url.replace("http", "ws") + "/ws-api/v3") as socket:
        await socket.send(b"\x00\xff")
        await socket.wait_closed()


async def test_nothing_of_this_was_an_error_of_the_program(paper: PaperProcess) -> None:
    """A refusal is an answer: no stack trace has been written (this runs last)."""
    assert (await paper.send("GET", "nothing")).status == 404
    assert "Traceback" not in paper.errors
