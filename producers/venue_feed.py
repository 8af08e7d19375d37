"""Venue feed: publishes the venue's reports about our orders as facts, and stores rules and prices of the market.

The feed decides nothing. It publishes each report at least once, and stores the report and the cursor after it in the
same transaction. Execution answers from the stored reports; the published record only tells it to look.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from decimal import Decimal
from functools import partial
from typing import Final
from uuid import UUID

import structlog
from pydantic import ValidationError

from tradesaga.infra.clock import format_time, new_id
from tradesaga.infra.kafka.codec import Outgoing
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.ledger.instruments import save_instruments, save_prices
from tradesaga.infra.ledger.venue_reports import store_reported
from tradesaga.infra.outbox.batch_writer import OutboxTransaction
from tradesaga.infra.outbox.guard import group_filter_for
from tradesaga.infra.outbox.outbox_writer import NotWrittenError, OutboxWriter, WriteUnknownError
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.postgres.database import DATABASE_ERRORS, Pool, open_pool
from tradesaga.infra.settings import Settings
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.venues.access import open_venue
from tradesaga.infra.venues.wire_reports import report_event
from tradesaga.sagas.trade.definition import trade
from tradesaga.sagas.trade.orders import Instrument, saga_of
from tradesaga.sagas.trade.venue import SymbolRules, VenueError, VenuePort
from tradesaga.sagas.trade.venue import VenueReport as Report
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.trade import VenueReport
from tradesaga.schemas.topics import events_topic

GROUP: Final = "trade-venue-feed"
PRICES_EVERY: Final = 1.0
RULES_EVERY: Final = 300
"""Seconds between two reads of prices, and reads of prices between two reads of rules."""
BATCH: Final = 500
_PAUSE: Final = 0.5

_SAVE_CURSOR = """
INSERT INTO venue_cursor (venue, cursor) VALUES ($1, $2)
ON CONFLICT (venue) DO UPDATE SET cursor = excluded.cursor, updated_at = clock_timestamp()
"""

log = structlog.get_logger("venue-feed")


async def serve(settings: Settings) -> None:
    """Run the feed until cancelled: reports go through execution's database, rules and prices into risk's."""
    await preflight(settings, [events_topic(trade.name)])
    name = settings.venue_name
    venue = open_venue(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(venue.close)
        pool = await _open(stack, settings.database_for("execution"), 4)
        book = await _open(stack, settings.database_for("risk"), 1)
        group_filter, owner = group_filter_for(settings, "execution"), unique_owner_name("venue-feed")
        writer = OutboxWriter(
            pool, settings.brokers(), GROUP, name, 4, owner=owner, saga=trade.name, group_filter=group_filter
        )
        await stack.enter_async_context(writer)
        metrics.register_worker(GROUP, writer.health)
        async with asyncio.TaskGroup() as group:
            group.create_task(follow_reports(venue, name, pool, writer), name="reports")
            group.create_task(follow_market(venue, name, book, settings.venue_fee_rate), name="market")
            group.create_task(writer.failed(), name="writer")


async def _open(stack: AsyncExitStack, url: str, size: int) -> Pool:
    return await stack.enter_async_context(
        await open_pool(url, max_size=size, application_name="tradesaga venue-feed")
    )  # fmt: skip


async def follow_reports(venue: VenuePort, name: str, pool: Pool, writer: OutboxWriter) -> None:
    """Publish reports from the stored cursor on; after a failure, start again from the stored cursor."""
    while True:
        try:
            cursor = await pool.fetchval("SELECT cursor FROM venue_cursor WHERE venue = $1", name)
            await _follow(venue, name, writer, cursor)
        except (VenueError, NotWrittenError, WriteUnknownError, *DATABASE_ERRORS) as error:
            log.warning("restarting from the stored cursor", why=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_PAUSE)


async def _follow(venue: VenuePort, name: str, writer: OutboxWriter, cursor: str | None) -> None:
    inbox: asyncio.Queue[Report] = asyncio.Queue(maxsize=4 * BATCH)

    async def listen() -> None:
        async with aclosing(venue.reports(cursor)) as reports:
            async for report in reports:
                await inbox.put(report)

    listening = asyncio.create_task(listen(), name="venue reports")
    try:
        while True:
            batch = await _gather(inbox, listening)
            await writer.write(partial(_publish, name, batch))
            _count(name, batch)
    finally:
        listening.cancel()
        await asyncio.wait([listening])


async def _gather(inbox: "asyncio.Queue[Report]", listening: "asyncio.Task[None]") -> list[Report]:
    """Wait for a report and return it with those that are queued; raise the error that ended the stream."""
    first = asyncio.ensure_future(inbox.get())
    await asyncio.wait([first, listening], return_when=asyncio.FIRST_COMPLETED)
    if not first.done():
        first.cancel()
        listening.result()
        raise OSError("the venue's stream has ended")
    batch = [first.result()]
    while len(batch) < BATCH and not inbox.empty():
        batch.append(inbox.get_nowait())
    return batch


async def _publish(name: str, batch: Sequence[Report], transaction: OutboxTransaction) -> None:
    stored: list[tuple[UUID, VenueReport]] = []
    for report in batch:
        saga_id = saga_of(report.client_order_id)
        if saga_id is None:
            continue
        try:
            stored.append((saga_id, report_event(name, report)))
        except ValidationError as error:
            # A report that fits no contract must not hold back those of other sagas; reconciliation shows it.
            log.exception("report left out", report=report.report_id, saga_id=str(saga_id), why=str(error))
        else:
            transaction.publish(_make_fact(name, saga_id, report.time, stored[-1][1]))
    await store_reported(transaction.sql, stored)
    await transaction.sql.execute(_SAVE_CURSOR, name, batch[-1].cursor)


def _make_fact(name: str, saga_id: UUID, time: int, report: VenueReport) -> Outgoing:
    envelope = Envelope(
        type=wire_type(trade.name, VenueReport),
        id=str(new_id()),
        source=f"/{trade.name}/venue/{name}",
        saga_id=str(saga_id),
        time=format_time(time),
    )
    return Outgoing.of(events_topic(trade.name), envelope, report.to_wire())


def _count(name: str, batch: Sequence[Report]) -> None:
    foreign = sum(1 for report in batch if saga_of(report.client_order_id) is None)
    metrics.VENUE_REPORTS.labels(name, "published").inc(len(batch) - foreign)
    if foreign:
        metrics.VENUE_REPORTS.labels(name, "foreign").inc(foreign)
        log.warning("reports of orders that are not ours", count=foreign)


async def follow_market(venue: VenuePort, name: str, pool: Pool, fee_rate: Decimal) -> None:
    """Store the rules and last prices of the venue's symbols; without them market orders are refused."""
    reads = 0
    while True:
        try:
            async with pool.acquire() as sql:
                if reads % RULES_EVERY == 0:
                    rules = (await venue.rules()).values()
                    left_out = await save_instruments(sql, name, [_instrument(one, fee_rate) for one in rules])
                    log.info("rules read", symbols=len(rules), left_out=left_out)
                await save_prices(sql, name, await venue.prices())
            reads += 1
        except (VenueError, *DATABASE_ERRORS) as error:
            log.warning("prices not read", why=str(error) or type(error).__name__)
        await asyncio.sleep(PRICES_EVERY)


def _instrument(rules: SymbolRules, fee_rate: Decimal) -> Instrument:
    return Instrument(
        symbol=rules.symbol, base=rules.base, quote=rules.quote, tick=rules.tick, lot=rules.lot,
        min_quantity=rules.minimum_quantity, max_quantity=rules.maximum_quantity, min_notional=rules.minimum_notional,
        fee_rate=fee_rate, collar=Decimal("0.02"),
    )  # fmt: skip
