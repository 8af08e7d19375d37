"""What the venue has answered survives its death; what its command refuses, it refuses with one sentence and a code."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.infra.conftest import Connect
from tests.integration.infra.paper_exchange.process import PaperProcess, small_market, soon
from tests.integration.infra.venues.rigs import order
from tradesaga.infra.paper_exchange.command import listen_on
from tradesaga.infra.venues.ccxt_adapter import CcxtVenue
from tradesaga.sagas.trade.venue import OrderStatus, VenueError


async def trade_until(venue: CcxtVenue, worker: int, dead: asyncio.Event) -> dict[str, str]:
    """Place orders until the venue is dead; give the venue's ids of those it has answered for."""
    answered: dict[str, str] = {}
    number = 0
    while not dead.is_set():
        number += 1
        name = f"w{worker}-{number}"
        try:
            report = await venue.place(order(name, 20, "1.05" if number % 2 else None))
        except VenueError:
            continue
        answered[name] = report.venue_order_id
    return answered


async def test_answered_orders_survive_kill_9_under_load(paper: PaperProcess, connect: Connect) -> None:
    """Killed three times amid eight traders: every answered order is there, once, and all sums hold."""
    venue = connect()
    answered: dict[str, str] = {}
    for round_ in range(3):
        dead = asyncio.Event()
        workers = [asyncio.create_task(trade_until(venue, 8 * round_ + worker, dead)) for worker in range(8)]
        await asyncio.sleep(0.7)
        paper.kill()
        dead.set()
        for orders in await asyncio.gather(*workers):
            answered |= orders
        paper.start()
    ledger = await paper.ledger()

    kept = {one["client_order_id"]: str(one["id"]) for one in ledger["orders"]}
    assert len(answered) > 20
    assert {name: kept.get(name) for name in answered} == answered
    assert len(kept) == len(ledger["orders"])
    assert ledger["breaks"] == []
    assert {one["amount"] for one in ledger["sums"]} == {"0"}


@pytest.mark.timeout(240)
async def test_full_disk_ends_the_venue_and_loses_nothing_answered(paper: PaperProcess, connect: Connect) -> None:
    """When the ledger cannot grow, nothing more is answered and the process ends; with room again all is there."""
    paper.stop()
    paper.whole = True
    paper.start()
    venue, dead = connect(), asyncio.Event()
    workers = [asyncio.create_task(trade_until(venue, worker, dead)) for worker in range(4)]
    code = await paper.fill_disk(2_000_000)
    dead.set()
    answered: dict[str, str] = {}
    for orders in await asyncio.gather(*workers):
        answered |= orders
    paper.start()
    ledger = await paper.ledger()

    kept = {one["client_order_id"]: str(one["id"]) for one in ledger["orders"]}
    assert code == 5
    assert "can no longer be written" in paper.errors
    assert "Traceback" not in paper.errors
    assert len(answered) > 20
    assert {name: kept.get(name) for name in answered} == answered
    assert ledger["breaks"] == []


@pytest.mark.timeout(240)
async def test_requests_under_way_are_answered_when_the_ledger_breaks(paper: PaperProcess, connect: Connect) -> None:
    """Orders that are durable and wait for their late answer get it; none is cut off when another breaks the ledger."""
    await paper.fault(kind="latency", milliseconds=400, distribution="uniform", when="after", operations=["place"])
    venue, dead = connect(), asyncio.Event()
    workers = [asyncio.create_task(trade_until(venue, worker, dead)) for worker in range(8)]
    await soon(lambda: _has_orders(paper, 13))  # of eight workers: some have been answered, others are under way
    room = max(file.stat().st_size for file in (paper.folder / "ledger").iterdir())
    await paper.fill_disk(room + 20_000)
    dead.set()
    answered: dict[str, str] = {}
    for orders in await asyncio.gather(*workers):
        answered |= orders
    paper.start()
    ledger = await paper.ledger()

    assert len(answered) > 8
    assert {one["client_order_id"]: str(one["id"]) for one in ledger["orders"]} == answered


async def _has_orders(paper: PaperProcess, least: int) -> bool:
    return len((await paper.ledger())["orders"]) >= least


async def test_market_and_resting_orders_go_on_after_kill_9(paper: PaperProcess, connect: Connect) -> None:
    """Bars, used-up liquidity, resting orders and their locks are as they were."""
    venue = connect()
    await paper.step()
    await venue.place(order("take", 1500))
    await venue.place(order("rest", 100, "1.09"))
    before = await paper.admin("GET", "market"), (await venue.balances())
    paper.kill()
    paper.start()

    assert (await paper.admin("GET", "market"), await venue.balances()) == before
    rest = await venue.place(order("more", 1000, "1.2"))
    assert (rest.status, rest.filled) == (OrderStatus.PARTIALLY_FILLED, 500)
    await paper.step()
    filled = await venue.query("rest", "EUR/USD")
    assert filled is not None
    assert filled.status is OrderStatus.FILLED


async def test_client_order_ids_are_used_up_for_ever(paper: PaperProcess) -> None:
    """A name is taken after a restart, whether its order was filled, cancelled, expired or rejected."""
    await paper.place("filled")
    await paper.place("cancelled", price="1.05")
    await paper.call("DELETE", "order", symbol="EURUSD", origClientOrderId="cancelled")
    await paper.place("expired", price="1.05", timeInForce="IOC")
    await paper.place("rejected", price="0")
    paper.kill()
    paper.start()

    for name in ("filled", "cancelled", "expired", "rejected"):
        answer = await paper.place(name)
        assert (answer.code, answer.body["msg"]) == (-2010, "Duplicate order sent.")


async def test_ids_and_events_rise_over_restarts(paper: PaperProcess) -> None:
    """Event ids are without gaps, order and trade ids are never given twice."""
    for _ in range(3):
        name = f"n{len((await paper.ledger())['orders'])}"
        await paper.place(name, 20)
        assert paper.stop() == 0
        paper.start()

    events = await paper.admin("GET", "events")
    ledger = await paper.ledger()
    assert [event["id"] for event in events] == list(range(1, 7))
    assert [one["id"] for one in ledger["orders"]] == [1, 2, 3]
    assert [one["id"] for one in ledger["trades"]] == [1, 2, 3]


async def test_accounts_are_opened_once(paper: PaperProcess) -> None:
    """The same account again changes nothing; its balances are not paid in anew, nor after a restart."""
    wanted = {"name": "second", "key": "k2", "secret": "s2", "balances": {"USD": "50"}}
    answers = [await paper.admin("POST", "accounts", wanted) for _ in range(2)]
    await paper.admin("POST", "deposits", {"account": "second", "asset": "USD", "amount": "7.5"})
    paper.kill()
    paper.start()

    account = await paper.call("GET", "account", key="k2", secret="s2")
    assert [answer["created"] for answer in answers] == [True, False]
    assert account.body["balances"] == [{"asset": "USD", "free": "57.50000000", "locked": "0.00000000"}]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "tradesaga.infra.cli.entry", "venue", "--dir", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_second_venue_on_one_ledger_is_refused(paper: PaperProcess) -> None:
    """Two processes never write one ledger: exit code 4."""
    second = run(paper.folder / "ledger", "--port", "0", "--config", str(paper.folder / "config.json"))

    assert second.returncode == 4
    assert "another paper venue" in second.stderr
    assert "Traceback" not in second.stderr


def test_port_in_use_is_unavailable(tmp_path: Path) -> None:
    """A taken port is named: exit code 5."""
    taken = listen_on("127.0.0.1", 0)

    result = run(tmp_path, "--port", str(taken.getsockname()[1]))

    taken.close()
    assert result.returncode == 5
    assert "cannot listen" in result.stderr


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"listings": []}, "listings"),
        ({"speed": -1}, "speed"),
        ({"unknown": 1}, "unknown"),
        ({"faults": [{"kind": "none"}]}, "kind"),
        ({"tape": "missing.csv"}, "missing.csv"),
        ({"tick": "0.000000011"}, "tick"),
    ],
)
def test_wrong_configuration_is_named(tmp_path: Path, change: dict[str, object], word: str) -> None:
    """A configuration that cannot work is refused with the place of the mistake: exit code 2."""
    config = small_market(tmp_path)
    if "tape" in change or "tick" in change:
        config["listings"][0] |= change
    else:
        config |= change
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))

    result = run(tmp_path, "--port", "0", "--config", str(file))

    assert result.returncode == 2
    assert word in result.stderr
    assert "Traceback" not in result.stderr
