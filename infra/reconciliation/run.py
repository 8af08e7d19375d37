"""Reconciliation: read the venue, the ledger and the sagas, compare them, and report discrepancies."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid5

import structlog

from tradesaga.infra.errors import CommandError
from tradesaga.infra.ledger.entries import Booking, book
from tradesaga.infra.postgres.database import DATABASE_ERRORS, Connection, session
from tradesaga.infra.reconciliation.dead_letters import Contradiction, DeadLetterCheck, check_dead_letters
from tradesaga.infra.reconciliation.facts import FactCheck, ForgedFact, check_facts
from tradesaga.infra.reconciliation.sources import read_book, read_ended, read_venue
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.telemetry.metrics import DISCREPANCIES
from tradesaga.sagas.trade.comparison import Discrepancy, Flaw, compare, venue_differences
from tradesaga.sagas.trade.postings import AccountKey, stock
from tradesaga.sagas.trade.venue import VenueError, VenuePort
from tradesaga.schemas.identity import NAMESPACE

STEP: Final = "venue_stock"


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of a reconciliation; `balances_checked` is false if the venue's holdings changed all the time.

    `facts` is the result of comparing facts with rows. Its forged facts are also discrepancies, as are the contradicted
    records of `dead_letters`, which is None if dead letters were not to be read.
    """

    discrepancies: list[Discrepancy]
    sagas: int
    orders: int
    balances_checked: bool
    facts: FactCheck
    dead_letters: DeadLetterCheck | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the findings for scripts."""
        return {
            "agree": not self.discrepancies,
            "sagas": self.sagas,
            "orders": self.orders,
            "balances_checked": self.balances_checked,
            "counts": dict(Counter(each.flaw.value for each in self.discrepancies)),
            "discrepancies": [asdict(each) for each in self.discrepancies],
            "facts": self.facts.as_json(),
            "dead_letters": None if self.dead_letters is None else self.dead_letters.as_json(),
        }


async def reconcile(
    port: VenuePort, settings: Settings, since: datetime | None = None, *, dead_letters: bool = False
) -> Findings:
    """Compare everything once; the settings give the venue's name and the databases.

    Facts recorded from `since` on, by default of the last week, are compared with rows. With `dead_letters`, the dead
    letters of the same period are read.
    """
    venue = settings.venue_name
    async with session(settings.database_for(SAGA_LOG), application_name="tradesaga reconcile") as sql:
        ended = await read_ended(sql)
    there = await read_venue(port)
    async with session(settings.database_for("settlement"), application_name="tradesaga reconcile") as sql:
        here = await read_book(sql, venue, stock_id(venue))
    facts = await check_facts(settings, since)
    found = [*compare(ended, there, here), *map(_forged, facts.forged)]
    dead_letter_check = None
    if dead_letters:
        named = {(each.topic, each.partition, each.offset) for each in facts.forged}
        dead_letter_check = await check_dead_letters(settings, facts.since, named)
        found += map(_contradicted, dead_letter_check.records)
    checked = there.totals is not None and here.stocked
    return Findings(found, len(ended), len(there.orders) + len(there.foreign), checked, facts, dead_letter_check)


def _forged(fact: ForgedFact) -> Discrepancy:
    return Discrepancy(Flaw.FORGED_FACT, str(fact.saga_id), f"{fact.type} at {fact.place}: {fact.reason}")


def _contradicted(record: Contradiction) -> Discrepancy:
    return Discrepancy(Flaw.CONTRADICTED_RECORD, record.saga_id, str(record))


async def record_opening_stock(port: VenuePort, settings: Settings) -> bool:
    """Book, once, what the venue holds for us beyond the ledger; return False if it was booked before.

    Every later difference is a discrepancy. Raises VenueError if the venue's holdings change all the time.
    """
    venue = settings.venue_name
    async with session(settings.database_for("settlement"), application_name="tradesaga stock") as sql:
        there = await read_venue(port)
        here = await read_book(sql, venue, stock_id(venue))
        if here.stocked:
            return False
        if there.totals is None:
            raise VenueError(f"the holdings at {venue} change faster than they can be read")
        await _write_stock(sql, venue, venue_differences(there, here))
    return True


def stock_id(venue: str) -> UUID:
    """Return the id of the booking of a venue's opening stock."""
    return uuid5(NAMESPACE, f"stock {venue}")


async def _write_stock(sql: Connection, venue: str, amounts: dict[str, Decimal]) -> None:
    postings: dict[AccountKey, Decimal] = {}
    for asset, amount in amounts.items():
        postings |= stock(venue, asset, amount)
    async with sql.transaction():
        await book(sql, [Booking(stock_id(venue), STEP, postings)])


async def reconcile_at_start(port: VenuePort, settings: Settings) -> None:
    """Record the opening stock and reconcile, for logs and metrics only: discrepancies do not stop trades."""
    log = structlog.get_logger("reconciliation")
    try:
        if await record_opening_stock(port, settings):
            log.info("opening stock recorded", venue=settings.venue_name)
        findings = await reconcile(port, settings)
    except (VenueError, CommandError, *DATABASE_ERRORS) as error:
        log.warning("not reconciled", why=str(error) or type(error).__name__)
        return
    counts = Counter(each.flaw for each in findings.discrepancies)
    for flaw in Flaw:
        DISCREPANCIES.labels(settings.venue_name, flaw.value).set(counts.get(flaw, 0))
    for each in findings.discrepancies[:100]:
        log.error("discrepancy", **asdict(each))
    log.info("reconciled", sagas=findings.sagas, orders=findings.orders, discrepancies=len(findings.discrepancies))
