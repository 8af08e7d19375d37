"""The signal router: each signal becomes a start or a refusal for each account that follows its strategy.

Decision, start and outbox row are written in one transaction. A signal is decided once for each account; for a
duplicate the first decision stands.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

from tradesaga.consumers.entry.processor import EntryProcessor, header_text, make_traced_start
from tradesaga.consumers.entry.signals.routing import (
    HANDLER,
    ReceivedSignal,
    RoutedOrder,
    RoutingState,
    acceptance,
    read_signal,
    refusal,
    route_signals,
)
from tradesaga.consumers.entry.signals.store import (
    Decision,
    load_accepted,
    load_decided,
    load_followers,
    write_decisions,
)
from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.clock import Clock
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.outbox.processor import Received, Transaction
from tradesaga.infra.outbox.worker import make_worker
from tradesaga.infra.postgres.database import Connection, open_pool
from tradesaga.infra.postgres.partitions import maintain_partitions
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.starts.accept import Conflict, Same, Start
from tradesaga.infra.starts.backpressure import Backpressure, make_backpressure
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.infra.telemetry import metrics
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.trade.definition import trade
from tradesaga.sagas.trade.orders import Rejection
from tradesaga.schemas.envelope import ID
from tradesaga.schemas.identity import RequestKeys
from tradesaga.schemas.topics import SIGNALS, dead_letters_topic, events_topic

BATCH: Final = 50
"""Maximum number of signals of a transaction: each may start a saga for every account that follows it."""
_KEY_TAKEN: Final = Rejection("key_taken", "another request has started a saga under the signal's key")


class SignalRouter(EntryProcessor):
    """Routes signals with a constant number of statements per batch."""

    def __init__(
        self,
        keys: RequestKeys,
        saga: AnySaga = trade,
        topic: str = SIGNALS.name,
        clock: Clock | None = None,
        backpressure: Backpressure | None = None,
    ) -> None:
        super().__init__(saga, HANDLER, topic, keys, clock=clock, backpressure=backpressure)

    def _forget(self) -> None:
        super()._forget()
        self._signals: Counter[str] = Counter()

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Route the signals to all followers: write the decisions, and publish the starts."""
        self._forget()
        now = self._clock.now()
        found = await self._read_all(transaction, received, partial(read_signal, self._saga.name), now)
        if not found:
            return
        signals = [ReceivedSignal(each.lane, each.record, signal) for each, signal in found]
        routed = route_signals(signals, await _load(transaction.sql, signals), now)
        decisions = routed.refused + await self._start(transaction, routed.orders, now)
        await write_decisions(transaction.sql, decisions)
        self._signals.update(each.reason or each.decision for each in decisions)
        self._signals["duplicate"] += routed.duplicates

    def committed(self) -> None:
        """Count what was committed."""
        for result, count in self._signals.items():
            metrics.SIGNALS.labels(self._saga.name, result).inc(count)
        super().committed()

    async def _start(self, transaction: Transaction, orders: Sequence[RoutedOrder], now: int) -> list[Decision]:
        """Start the sagas. A start that another entry has accepted before is not published again."""
        decisions: list[Decision] = []
        results = await self._accept(transaction, [self._make_start(order) for order in orders], now)
        for order, result in zip(orders, results, strict=True):
            if not isinstance(result, Same):
                transaction.emit(order.received.lane, result.record)
            if isinstance(result, Conflict):
                decisions.append(refusal(order.received, order.account, _KEY_TAKEN))
            else:
                decisions.append(acceptance(order, result.saga_id))
        return decisions

    def _make_start(self, order: RoutedOrder) -> Start:
        texts = (header_text(order.received.record, name) for name in (ID, "traceparent", "tracestate"))
        return make_traced_start(self._saga, order.request, *texts)


async def _load(sql: Connection, signals: Sequence[ReceivedSignal]) -> RoutingState:
    streams = sorted({each.stream for each in signals})
    followers = await load_followers(sql, streams)
    decided = await load_decided(sql, sorted({(each.signal.strategy, each.signal.signal_id) for each in signals}))
    since = min(each.record.recorded_at for each in signals)
    return RoutingState(followers, decided, await load_accepted(sql, streams, since))


async def serve(settings: Settings) -> None:
    """Route signals until cancelled.

    Raises `CommandError` if a server is unavailable or the keys of request hashes are missing at the start, or if a
    topic is refused.
    """
    keys = read_request_keys(settings.request_keys_file())
    await preflight(settings, [SIGNALS.name, events_topic(trade.name), dead_letters_topic(trade.name)])
    url = settings.database_for(SAGA_LOG)
    pool = await open_pool(url, max_size=3, application_name="tradesaga signal-router")
    async with pool, maintain_partitions(pool), asyncio.TaskGroup() as group:
        backpressure = make_backpressure(settings, trade.name, pool)
        group.create_task(backpressure.watch(), name="backpressure")
        router = SignalRouter(keys, backpressure=backpressure)
        owner, trust = unique_owner_name("signal-router"), read_trust(settings)
        worker = make_worker(router, pool, settings, owner, service=SAGA_LOG, trust=trust, batch=BATCH)
        group.create_task(worker.run(), name=router.group)
