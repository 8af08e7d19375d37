"""The signal router: every signal, for every account that follows its strategy, becomes a start or a refusal.

Decision, start and outbox row are one transaction. A signal is judged once for each account; when it comes again, by
whatever way, the first decision stands.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from tradesaga.consumers.entry.signals.routing import Heard, Known, Order, acceptance, judge, read_signal, refusal
from tradesaga.consumers.entry.signals.store import (
    Decision,
    load_accepted,
    load_decided,
    load_followers,
    write_decisions,
)
from tradesaga.infra.audit_log.seals import read_trust
from tradesaga.infra.clock import Clock, SystemClock
from tradesaga.infra.kafka.dead_letters import dead_letter
from tradesaga.infra.kafka.topics import preflight
from tradesaga.infra.outbox.lane_rows import Lane
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.outbox.processor import Pace, Received, Transaction
from tradesaga.infra.outbox.worker import make_worker
from tradesaga.infra.postgres.database import Connection, open_pool
from tradesaga.infra.postgres.partitions import maintain_partitions
from tradesaga.infra.settings import SAGA_LOG, Settings
from tradesaga.infra.starts.accept import Accepted, Conflict, Same, Start, accept, check_startable, make_start
from tradesaga.infra.starts.backpressure import Backpressure, make_backpressure
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.infra.telemetry import metrics
from tradesaga.infra.telemetry.tracing import next_traceparent
from tradesaga.sagas.definition import AnySaga
from tradesaga.sagas.trade.definition import trade
from tradesaga.sagas.trade.orders import Rejection
from tradesaga.schemas.envelope import ID, Header
from tradesaga.schemas.identity import RequestKeys
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.topics import SIGNALS, dead_letters_topic, events_topic

BATCH: Final = 50
"""Signals that a transaction takes at most: each may start a saga for every account that follows it."""
_ID_LIMIT: Final = 200
_KEY_TAKEN: Final = Rejection("key_taken", "another request has started a saga under the signal's key")
_RESULTS: Final = {Accepted: "accepted", Same: "same", Conflict: "conflict"}


class SignalRouter:
    """Judges signals in a constant number of statements a batch."""

    def __init__(
        self,
        keys: RequestKeys,
        saga: AnySaga = trade,
        topic: str = SIGNALS.name,
        clock: Clock | None = None,
        backpressure: Backpressure | None = None,
    ) -> None:
        check_startable(saga)
        self._keys = keys
        self._backpressure = backpressure
        self.group = f"{saga.name}-signal-router"
        self.topics: Sequence[str] = (topic,)
        self._saga = saga
        self._clock = clock or SystemClock()
        self._forget()

    def _forget(self) -> None:
        self._signals: Counter[str] = Counter()
        self._starts: Counter[str] = Counter()
        self._dead: Counter[str] = Counter()

    def wants(self, topic: str, headers: Sequence[Header]) -> bool:  # noqa: ARG002 - all are answered
        """Accept every record of the topic."""
        return True

    async def open(self, sql: Connection, lanes: Sequence[Lane], wake: Callable[[], None]) -> None:
        """Nothing is remembered between batches."""

    def due_in(self) -> float | None:
        """Return None: signals come as records alone."""
        return None

    async def apply(self, transaction: Transaction, received: Sequence[Received]) -> None:
        """Judge the signals for all who follow them; publish the starts, and copy what could not be read."""
        self._forget()
        now = self._clock.now()
        heard = await self._read(transaction, received, now)
        if not heard:
            return
        judged = judge(heard, await _load(transaction.sql, heard), now)
        decisions = judged.refused + await self._start(transaction, judged.orders, now)
        await write_decisions(transaction.sql, decisions)
        self._signals.update(each.reason or each.decision for each in decisions)
        self._signals["duplicate"] += judged.duplicates

    def committed(self) -> None:
        """Count what was committed."""
        for result, count in self._signals.items():
            metrics.SIGNALS.labels(self._saga.name, result).inc(count)
        for result, count in self._starts.items():
            metrics.STARTS.labels(self._saga.name, result).inc(count)
        for kind, count in self._dead.items():
            metrics.DEAD_LETTERS.labels(self.group, kind).inc(count)
        self._forget()

    def full(self) -> bool:
        """Return whether the saga log is so far behind that signals had better wait on their topic."""
        return self._backpressure is not None and self._backpressure.holds_back

    async def close(self) -> None:
        """Nothing runs on the side."""

    async def _read(self, transaction: Transaction, received: Sequence[Received], now: int) -> list[Heard]:
        """Read what can be read; the rest goes to the dead letters."""
        heard: list[Heard] = []
        pace = Pace()
        for each in received:
            if pace.is_due():
                await pace.turn()
            signal = read_signal(self._saga.name, each.record)
            if isinstance(signal, SignalRaised):
                heard.append(Heard(each.lane, each.record, signal))
                continue
            transaction.emit(each.lane, dead_letter(self._saga.name, self.group, each.record, signal, now))
            self._dead[signal.kind] += 1
        return heard

    async def _start(self, transaction: Transaction, orders: Sequence[Order], now: int) -> list[Decision]:
        """Start the sagas. What another door has started by the same request is published there, and not again."""
        decisions: list[Decision] = []
        starts = [self._named(order) for order in orders]
        source = f"/{self._saga.name}/signal-router"
        verdicts = await accept(transaction.sql, self._saga, starts, keys=self._keys, source=source, now=now)
        for order, verdict in zip(orders, verdicts, strict=True):
            self._starts[_RESULTS[type(verdict)]] += 1
            if not isinstance(verdict, Same):
                transaction.emit(order.heard.lane, verdict.record)
            if isinstance(verdict, Conflict):
                decisions.append(refusal(order.heard, order.account, _KEY_TAKEN))
            else:
                decisions.append(acceptance(order, verdict.saga_id))
        return decisions

    def _named(self, order: Order) -> Start:
        """Record the signal that caused the start, and continue the signal's trace."""
        causation, parent, state = (_text(order.heard, name) for name in (ID, "traceparent", "tracestate"))
        trace = next_traceparent(parent)
        return make_start(
            self._saga, order.request, causation=causation[:_ID_LIMIT], traceparent=trace,
            tracestate=state[:512] if trace else "",
        )  # fmt: skip


async def _load(sql: Connection, heard: Sequence[Heard]) -> Known:
    streams = sorted({each.stream for each in heard})
    followers = await load_followers(sql, streams)
    decided = await load_decided(sql, sorted({(each.signal.strategy, each.signal.signal_id) for each in heard}))
    since = min(each.record.recorded_at for each in heard)
    return Known(followers, decided, await load_accepted(sql, streams, since))


def _text(heard: Heard, header: str) -> str:
    return heard.record.header(header).decode("utf-8", "replace").replace("\0", "")


async def serve(settings: Settings) -> None:
    """Route signals until cancelled.

    Raises `CommandError` when a server or the keys of request hashes are not there at the start, or a
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
