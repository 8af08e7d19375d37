"""What becomes of a batch of signals, given what the database knows: orders, refusals, duplicates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from pydantic import ValidationError

from tradesaga.consumers.entry.signals.store import Decision, Place, Stream
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import READING_ERRORS, UNREADABLE, RecordFault
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json
from tradesaga.sagas.trade.orders import Rejection
from tradesaga.sagas.trade.routing import RATE_WINDOW, Subscription, flaw, request_of, route
from tradesaga.schemas.envelope import SPEC, SPECVERSION, TYPE, foreign_specversion
from tradesaga.schemas.invalid import describe_invalid
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.messages.trade import TradeRequested

SIZE_LIMIT: Final = 16 * 1024
"""Bytes of a signal's payload."""

HANDLER: Final = "signal-router"


def read_signal(saga: str, record: Record) -> SignalRaised | RecordFault:
    """Read a signal; a record without a type is taken by its payload alone, as starts are.

    A fault of ours in reading costs this record, and holds up nobody behind it.
    """
    try:
        return _read(saga, record)
    except READING_ERRORS as error:
        place = f"{record.topic}[{record.partition}]@{record.offset}"
        structlog.get_logger(HANDLER).exception("record cannot be read", place=place, exc_info=error)
        return RecordFault(UNREADABLE, f"the record cannot be read: {type(error).__name__}", HANDLER)


def _read(saga: str, record: Record) -> SignalRaised | RecordFault:
    if (version := record.header(SPECVERSION)) not in {b"", SPEC}:
        return RecordFault("specversion", foreign_specversion(version), HANDLER)
    ce_type = record.header(TYPE).decode("utf-8", "replace")
    wanted = wire_type(saga, SignalRaised)
    if ce_type and ce_type != wanted:
        return RecordFault("wrong-type", f"the type is {ce_type[:100]!r}; this topic takes {wanted!r}", HANDLER)
    if len(record.value) > SIZE_LIMIT:
        return RecordFault("too-large", f"the signal has {len(record.value)} bytes; {SIZE_LIMIT} are allowed", HANDLER)
    try:
        check_json(record.value)
        signal = SignalRaised.from_wire(record.value)
    except StrictJsonError as error:
        return RecordFault("not-json", f"the signal is not JSON that we take: {error}", HANDLER)
    except ValidationError as error:
        return RecordFault("invalid", describe_invalid(error, "signal"), HANDLER)
    wrong = flaw(signal)
    return RecordFault("invalid", wrong, HANDLER) if wrong else signal


_WINDOW: Final = timedelta(seconds=RATE_WINDOW)

_NOBODY: Final = Rejection("unknown_strategy", "no account follows this strategy in this symbol")

_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Heard:
    """A readable signal, and how it came."""

    lane: int
    record: Record
    signal: SignalRaised

    @property
    def stream(self) -> Stream:
        """Return the strategy and symbol that accounts follow."""
        return Stream(self.signal.strategy, self.signal.symbol)


@dataclass(frozen=True, slots=True)
class Order:
    """What one account asks for because of a signal."""

    heard: Heard
    account: str
    request: TradeRequested


@dataclass(frozen=True, slots=True)
class Known:
    """What was there before the batch: followers, decisions, and when signals were last accepted."""

    followers: Mapping[Stream, Sequence[Subscription]]
    decided: set[Place]
    accepted: Mapping[tuple[Stream, str], list[datetime]]


@dataclass(slots=True)
class Judged:
    """What a batch comes to."""

    orders: list[Order] = field(default_factory=list[Order])
    refused: list[Decision] = field(default_factory=list[Decision])
    duplicates: int = 0


def judge(heard: Sequence[Heard], known: Known, now: int) -> Judged:
    """Judge signals in their order, so that limits count those before; `now` is nanoseconds since 1970."""
    judged = Judged()
    decided = set(known.decided)
    accepted = {key: list(times) for key, times in known.accepted.items()}
    for each in heard:
        for subscription in known.followers[each.stream] or (None,):
            account = subscription.account if subscription else ""
            place = Place(each.signal.strategy, each.signal.signal_id, account)
            if place in decided:
                judged.duplicates += 1
                continue
            decided.add(place)
            answer = _route(each, subscription, accepted.setdefault((each.stream, account), []), now)
            if isinstance(answer, Rejection):
                judged.refused.append(refusal(each, account, answer))
            else:
                judged.orders.append(answer)
    return judged


def refusal(heard: Heard, account: str, why: Rejection) -> Decision:
    """Write why an account does not trade a signal; the account is empty where nobody follows the strategy."""
    return _decision(heard, account, "refused", why)


def acceptance(order: Order, saga_id: UUID) -> Decision:
    """Write which saga an account trades a signal by."""
    return _decision(order.heard, order.account, "accepted", Rejection("", ""), saga_id)


def _route(heard: Heard, subscription: Subscription | None, accepted: list[datetime], now: int) -> Order | Rejection:
    if subscription is None:
        return _NOBODY
    at = heard.record.recorded_at
    lately = sum(1 for moment in accepted if moment > at - _WINDOW)
    waited = (datetime.fromtimestamp(now / _SECOND, UTC) - at).total_seconds()
    quantity = route(heard.signal, subscription, waited=waited, lately=lately)
    if isinstance(quantity, Rejection):
        return quantity
    accepted.append(at)
    return Order(heard, subscription.account, request_of(heard.signal, subscription.account, quantity))


def _decision(heard: Heard, account: str, decision: str, why: Rejection, saga_id: UUID | None = None) -> Decision:
    signal = heard.signal
    return Decision(
        signal.strategy, signal.signal_id, account, signal.symbol, decision, why.code, why.reason, saga_id,
        heard.record.recorded_at,
    )  # fmt: skip
