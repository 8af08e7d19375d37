"""Reading and routing of signals: pure functions from a batch and the stored state to orders and decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from pydantic import ValidationError

from tradesaga.consumers.entry.processor import read_or_fault
from tradesaga.consumers.entry.signals.store import Decision, DecisionKey, Stream
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.dead_letters import RecordFault
from tradesaga.infra.starts.accept import StartInvalidError
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json
from tradesaga.sagas.trade.orders import Rejection
from tradesaga.sagas.trade.routing import RATE_WINDOW, Subscription, flaw, request_of, route
from tradesaga.schemas.envelope import SPEC, SPECVERSION, TYPE, foreign_specversion
from tradesaga.schemas.invalid import describe_invalid
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.messages.trade import TradeRequested

SIZE_LIMIT: Final = 16 * 1024
"""Maximum size of a signal's payload in bytes."""

HANDLER: Final = "signal-router"


def read_signal(saga: str, record: Record) -> SignalRaised | RecordFault:
    """Return the signal in a record, or what is wrong with it. As for starts, a record needs no type."""
    return read_or_fault(record, partial(_read, saga), HANDLER)


def _read(saga: str, record: Record) -> SignalRaised:
    if (version := record.header(SPECVERSION)) not in {b"", SPEC}:
        raise StartInvalidError("specversion", foreign_specversion(version))
    ce_type = record.header(TYPE).decode("utf-8", "replace")
    wanted = wire_type(saga, SignalRaised)
    if ce_type and ce_type != wanted:
        raise StartInvalidError("wrong-type", f"the type is {ce_type[:100]!r}; this topic takes {wanted!r}")
    if len(record.value) > SIZE_LIMIT:
        raise StartInvalidError("too-large", f"the signal has {len(record.value)} bytes; {SIZE_LIMIT} are allowed")
    try:
        check_json(record.value)
        signal = SignalRaised.from_wire(record.value)
    except StrictJsonError as error:
        raise StartInvalidError("not-json", f"the signal is not valid JSON: {error}") from None
    except ValidationError as error:
        raise StartInvalidError("invalid", describe_invalid(error, "signal")) from None
    if wrong := flaw(signal):
        raise StartInvalidError("invalid", wrong)
    return signal


_WINDOW: Final = timedelta(seconds=RATE_WINDOW)

_NOBODY: Final = Rejection("unknown_strategy", "no account follows this strategy in this symbol")

_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """A signal with its record and lane."""

    lane: int
    record: Record
    signal: SignalRaised

    @property
    def stream(self) -> Stream:
        """Return the strategy and symbol that accounts follow."""
        return Stream(self.signal.strategy, self.signal.symbol)


@dataclass(frozen=True, slots=True)
class RoutedOrder:
    """An account's order for a signal."""

    received: ReceivedSignal
    account: str
    request: TradeRequested


@dataclass(frozen=True, slots=True)
class RoutingState:
    """The stored state before a batch: followers, decisions, and when signals were accepted."""

    followers: Mapping[Stream, Sequence[Subscription]]
    decided: set[DecisionKey]
    accepted: Mapping[tuple[Stream, str], list[datetime]]


@dataclass(slots=True)
class RoutingResult:
    """The result of routing a batch."""

    orders: list[RoutedOrder] = field(default_factory=list[RoutedOrder])
    refused: list[Decision] = field(default_factory=list[Decision])
    duplicates: int = 0


def route_signals(signals: Sequence[ReceivedSignal], known: RoutingState, now: int) -> RoutingResult:
    """Route signals in their order, so that limits count the earlier ones; `now` is nanoseconds since 1970."""
    result = RoutingResult()
    decided = set(known.decided)
    accepted = {key: list(times) for key, times in known.accepted.items()}
    for each in signals:
        for subscription in known.followers[each.stream] or (None,):
            account = subscription.account if subscription else ""
            key = DecisionKey(each.signal.strategy, each.signal.signal_id, account)
            if key in decided:
                result.duplicates += 1
                continue
            decided.add(key)
            order = _route(each, subscription, accepted.setdefault((each.stream, account), []), now)
            if isinstance(order, Rejection):
                result.refused.append(refusal(each, account, order))
            else:
                result.orders.append(order)
    return result


def refusal(received: ReceivedSignal, account: str, why: Rejection) -> Decision:
    """Return the decision not to trade a signal; the account is empty if none follows the strategy."""
    return _decision(received, account, "refused", why)


def acceptance(order: RoutedOrder, saga_id: UUID) -> Decision:
    """Return the decision that an account trades a signal with this saga."""
    return _decision(order.received, order.account, "accepted", Rejection("", ""), saga_id)


def _route(
    received: ReceivedSignal, subscription: Subscription | None, accepted: list[datetime], now: int
) -> RoutedOrder | Rejection:
    if subscription is None:
        return _NOBODY
    at = received.record.recorded_at
    lately = sum(1 for time in accepted if time > at - _WINDOW)
    waited = (datetime.fromtimestamp(now / _SECOND, UTC) - at).total_seconds()
    quantity = route(received.signal, subscription, waited=waited, lately=lately)
    if isinstance(quantity, Rejection):
        return quantity
    accepted.append(at)
    return RoutedOrder(received, subscription.account, request_of(received.signal, subscription.account, quantity))


def _decision(
    received: ReceivedSignal, account: str, decision: str, why: Rejection, saga_id: UUID | None = None
) -> Decision:
    signal = received.signal
    return Decision(
        signal.strategy, signal.signal_id, account, signal.symbol, decision, why.code, why.reason, saga_id,
        received.record.recorded_at,
    )  # fmt: skip
