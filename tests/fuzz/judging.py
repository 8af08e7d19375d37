"""What a fuzz run has to leave: every good trade ended with exact money, nothing else net_amounts, everybody alive."""

import asyncio
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from tests.fuzz.trades import Trade
from tradesaga.infra.errors import ExitCode
from tradesaga.infra.kafka.admin import read_ends
from tradesaga.infra.ledger.recovery import PAYMENT_STEPS
from tradesaga.infra.local_stack.status import look
from tradesaga.infra.postgres.database import session
from tradesaga.producers.demo.snapshot import Rows, net_amounts, read_venue
from tradesaga.sagas.trade.orders import saga_of
from tradesaga.schemas.messages.trade import TradeRequested

ENDED: Final = {"COMPLETED", "ABORTED"}
SLOWEST: Final = 20.0
"""Seconds in which a good trade's client has its answer, whatever else is sent meanwhile."""
NEAR: Final = 2
"""Records a partition that a reader may be behind: the marker that ends a transaction is never delivered."""
_SAGAS: Final = "SELECT saga_id::text, state FROM saga WHERE saga_id = ANY($1::uuid[])"
_BOOKED: Final = "SELECT DISTINCT saga_id::text FROM ledger_entry WHERE step <> ALL($1::text[])"
_BALANCES: Final = """
SELECT owner, asset, sum(balance) AS total, sum(balance) FILTER (WHERE kind = 'held') AS held
FROM ledger_account WHERE kind IN ('available', 'held') GROUP BY owner, asset
"""
_SUMS: Final = "SELECT asset, sum(balance) AS total FROM ledger_account GROUP BY asset HAVING sum(balance) <> 0"
_LANES: Final = 'SELECT "group", topic, partition, next_offset FROM lane'


class Finding(NamedTuple):
    """What does not hold: the rule, and what was seen."""

    rule: str
    what: str


class Place(NamedTuple):
    """The stack that is judged."""

    home: Path
    kafka: str
    database_url: str
    venue_url: str
    admin_key: str


async def count_open(place: Place, trades: Sequence[Trade]) -> int:
    """Count the accepted trades that have not ended."""
    wanted = [trade.saga_id for trade in trades if trade.accepted]
    async with session(place.database_url) as sql:
        rows = await sql.fetch(_SAGAS, wanted)
    return len(wanted) - sum(1 for row in rows if row["state"] in ENDED)


async def read_lag(place: Place) -> dict[str, int]:
    """Return by how many records each group is behind, markers of transactions left out."""
    async with session(place.database_url) as sql:
        lanes = await sql.fetch(_LANES)
    lanes = [lane for lane in lanes if lane["topic"].startswith("trade.")]
    ends = await read_ends(place.kafka, {(lane["topic"], lane["partition"]) for lane in lanes})
    behind: dict[str, int] = {}
    for lane in lanes:
        left = ends[lane["topic"], lane["partition"]] - lane["next_offset"]
        behind[lane["group"]] = behind.get(lane["group"], 0) + (left if left > NEAR else 0)
    return behind


async def judge(place: Place, trades: Sequence[Trade], opening: dict[str, dict[str, str]]) -> list[Finding]:
    """Look at everything, and return what does not hold."""
    venue: dict[str, Rows] = await asyncio.to_thread(read_venue, place.venue_url, place.admin_key)
    async with session(place.database_url) as sql:
        states = {row["saga_id"]: row["state"] for row in await sql.fetch(_SAGAS, [t.saga_id for t in trades])}
        booked = {row["saga_id"] for row in await sql.fetch(_BOOKED, list(PAYMENT_STEPS))}
        balances = [dict(row) for row in await sql.fetch(_BALANCES)]
        sums = [dict(row) for row in await sql.fetch(_SUMS)]
    findings = _trades(trades, states)
    findings += _money(trades, states, venue, opening, balances)
    findings += [Finding("the ledger balances", f"{row['asset']} sum to {row['total']}") for row in sums]
    ours = {trade.saga_id for trade in trades}
    strange = sorted(booked - ours)
    if strange:
        findings.append(
            Finding("no forged record moves money", f"entries of {len(strange)} sagas, such as {strange[0]}")
        )
    findings += _orders(venue, ours)
    findings += _alive(place)
    findings += [Finding("every group keeps up", f"{g} is {n} behind") for g, n in (await read_lag(place)).items() if n]
    return findings + await _audit(place)


def _trades(trades: Sequence[Trade], states: dict[str, str]) -> list[Finding]:
    findings: list[Finding] = []
    for trade in trades:
        if not trade.accepted:
            findings.append(Finding("valid trades are accepted", f"{trade.door} {trade.saga_id}: {trade.told}"))
        elif (state := states.get(trade.saga_id)) is None:
            findings.append(Finding("no valid trade is lost", f"{trade.door} {trade.saga_id}"))
        elif state not in ENDED:
            findings.append(Finding("no saga is stuck", f"{trade.saga_id} is {state}"))
        if trade.seconds > SLOWEST:
            what = f"{trade.door} answered {trade.saga_id} after {trade.seconds:.1f} s"
            findings.append(Finding("clients get answers", what))
    return findings


def _money(
    trades: Sequence[Trade],
    states: dict[str, str],
    venue: dict[str, Rows],
    opening: dict[str, dict[str, str]],
    balances: list[dict[str, Any]],
) -> list[Finding]:
    """Hold each account against what was paid in and what the venue's own ledger says was traded for it."""
    orders = {each["id"]: each["client_order_id"] for each in venue["orders"]}
    fills: dict[str, Rows] = {}
    for each in venue["trades"]:
        fills.setdefault(str(saga_of(orders[each["order_id"]])), []).append(each)
    expected = {(a, asset): Decimal(n) for a, assets in opening.items() for asset, n in assets.items()}
    for trade in trades:
        found = fills.get(trade.saga_id, [])
        request = TradeRequested.model_validate(trade.request)
        for asset, amount in net_amounts(request, found).items():
            place = request.account, asset
            expected[place] = expected.get(place, Decimal(0)) + amount
    found = {(row["owner"], row["asset"]): row for row in balances}
    findings = [
        Finding(
            "accounts are exact", f"{owner} has {row['total']} {asset}, should have {expected.get((owner, asset), 0)}"
        )
        for (owner, asset), row in found.items()
        if row["total"] != expected.get((owner, asset), Decimal(0))
    ]
    findings += [
        Finding("no funds stay on hold", f"{owner} holds {row['held']} {asset}")
        for (owner, asset), row in found.items()
        if row["held"]
    ]
    aborted = {saga_id for saga_id, state in states.items() if state == "ABORTED"}
    findings += [Finding("aborted trades have no fills", saga_id) for saga_id in aborted & fills.keys()]
    return findings


def _orders(venue: dict[str, Rows], ours: set[str]) -> list[Finding]:
    strange = [each for each in venue["orders"] if str(saga_of(each["client_order_id"])) not in ours]
    first = strange[0]["client_order_id"] if strange else ""
    return [Finding("no forged order reaches the venue", f"{len(strange)} orders, such as {first}")] if strange else []


def _alive(place: Place) -> list[Finding]:
    status = look(place.home)
    return [
        Finding("every service is running", f"{each.name} is {each.state}")
        for each in status.services
        if each.state != "running"
    ]


async def _audit(place: Place) -> list[Finding]:
    """Verify and replay as a person would."""
    findings: list[Finding] = []
    for command in ("verify", "replay"):
        code, told = await _run(place.home, "audit", command, "--json")
        if code != ExitCode.FINE:
            findings.append(Finding(f"tradesaga audit {command} succeeds", f"exit {code}: {told[:600]}"))
    return findings


async def _run(home: Path, *arguments: str) -> tuple[int, str]:
    argv = (sys.executable, "-m", "tradesaga.infra.cli.entry", *arguments, "--dir", str(home))
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await process.communicate()
    return process.returncode or 0, _summary(out) or error.decode("utf-8", "replace")


def _summary(out: bytes) -> str:
    """Shorten a report to what is wrong."""
    try:
        told: dict[str, Any] = orjson.loads(out)
    except orjson.JSONDecodeError:
        return out.decode("utf-8", "replace")
    names = ("findings", "differences", "differing", "unaltered", "complete", "error")
    return orjson.dumps({name: told[name] for name in names if name in told}).decode()
