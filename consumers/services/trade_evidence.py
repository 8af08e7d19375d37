"""The evidence of the trade saga: what the ledger database must contain for a record to be accepted.

| record | accepted if |
| --- | --- |
| the start | the saga's id is derived from its account and key, and its context is the request itself |
| any other trigger | the row of the step before answered with this very value and context |
| ... for a step not yet begun | also, that row is DONE, the order is registered, and the required hold exists |
| a compensation | the step has run, and the row of the step after it is closed |
| a retry | the step is one that must succeed |
| a report of the venue | the feed has stored the same report, or execution has read it from the venue |

The rows of the four services are in one database, and are committed before their records are published: a genuine
record finds its rows. A forged start does no more than a start on `trade.starts`, where anyone may write.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, TypeVar, cast
from uuid import UUID

from pydantic import ValidationError

from tradesaga.consumers.context import Claim, StepContext, Work
from tradesaga.infra.kafka.codec import unpack
from tradesaga.infra.ledger.trades import RegisteredOrder, StepQuery, Trade, load_trades
from tradesaga.infra.ledger.venue_reports import find_bodies
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.decide import StepMessage
from tradesaga.sagas.step import StepKind
from tradesaga.sagas.step_state import RowStatus
from tradesaga.sagas.trade.definition import trade
from tradesaga.sagas.trade.fills import identify
from tradesaga.schemas.envelope import CONTEXT, TYPE, splice
from tradesaga.schemas.identity import saga_id
from tradesaga.schemas.messages.message import Message
from tradesaga.schemas.messages.trade import TradeRequested, VenueReport


def account_of(ctx: StepContext) -> Sequence[tuple[str, str]]:
    """Return the pause scopes of a saga: its account."""
    request = ctx.find(TradeRequested)
    return [("account", request.account)] if request is not None else []


M = TypeVar("M", bound=Message)

_STEPS: Final = [each.name for each in trade.steps]

_BEFORE: Final = {after: before for before, after in pairwise(_STEPS)}

_AFTER: Final = dict(pairwise(_STEPS))

_RETRIABLE: Final = {each.name for each in trade.steps if each.kind is StepKind.RETRIABLE}

_HAS_RUN: Final = frozenset({
    RowStatus.DONE, RowStatus.COMPENSATING, RowStatus.COMPENSATED, RowStatus.COMPENSATION_FAILED,
})  # fmt: skip

_CLOSED: Final = frozenset({
    RowStatus.REFUSED, RowStatus.FAILED, RowStatus.BARRED, RowStatus.COMPENSATED, RowStatus.COMPENSATION_FAILED,
})  # fmt: skip
"""A step in one of these no longer needs the step before it. Only a step that must succeed can leave FAILED."""

_NEEDS: Final = {
    "reserve_funds": ("VALIDATED", False),
    "check_risk": ("VALIDATED", True),
    "place_order": ("COUNTED", True),
    "confirm_fill": ("COUNTED", True),
    "settle_trade": ("COUNTED", True),
}
"""By step the required status of the order in the register, and whether its hold must exist."""


class TradeEvidence:
    """The evidence that the four services of the trade share."""

    async def load(self, sql: Connection, claims: Sequence[Claim], sagas: Sequence[UUID]) -> Mapping[UUID, Trade]:
        """Read orders, holds, reports and the rows of neighbouring steps, with at most three statements."""
        wanted = {asked for claim in claims if (asked := _asked(claim)) is not None}
        found = await load_trades(sql, sagas, sorted(wanted))
        told = {(each.saga_id, identify(report)) for each in claims if (report := _report(each)) is not None}
        for (saga, ident), body in (await find_bodies(sql, told)).items():
            found[saga].stored[ident] = body
        return found

    def refute(self, claim: Claim, found: Trade | None) -> str | None:
        """Return how the rows contradict a record, or None."""
        known = found or Trade()
        match claim.kind:
            case StepMessage.TRIGGER if claim.step == _STEPS[0]:
                return _refute_start(claim)
            case StepMessage.TRIGGER:
                return _refute_answer(claim, known) or (None if claim.begun else _refute_beginning(claim, known))
            case StepMessage.COMPENSATE:
                return _refute_compensation(claim, known)
            case StepMessage.REPORT:
                return _refute_report(claim, known)
            case StepMessage.RETRY if claim.step not in _RETRIABLE:
                return f"{claim.step!r} is not a step that is retried"
            case _:
                return None


EVIDENCE: Final = TradeEvidence()


def order_of(ctx: StepContext) -> RegisteredOrder:
    """Return the saga's order in the register. Raises `LookupError` without one."""
    known = cast("Trade | None", ctx.evidence)
    if known is None or known.order is None:
        raise LookupError(f"no order of saga {ctx.saga_id} is in the register")
    return known.order


def with_order(works: Sequence[Work[M]], *, held: bool = False, status: str = "") -> list[Work[M]]:
    """Return the facts of a recovery that the already restored rows confirm; log the others.

    The order must be in the register, in `status` if given, with its hold if `held`; and the context of the fact must
    agree with the rows of earlier steps.
    """
    kept: list[Work[M]] = []
    for work in works:
        known = cast("Trade | None", work.ctx.evidence) or Trade()
        order = known.order
        if order is None:
            reason = "its order is not in the register"
        elif status and order.status != status:
            reason = f"its order is {order.status}"
        elif held and known.held != order.hold:
            reason = "its hold does not exist"
        elif not _follows(work.ctx, known):
            reason = "the rows of earlier steps contradict it"
        else:
            kept.append(work)
            continue
        work.ctx.log.error("contradiction", fact=work.event.NAME, why=reason)
    return kept


def _follows(ctx: StepContext, known: Trade) -> bool:
    """Return whether the context of a fact continues that of the previous answer, if its row was read."""
    row = known.steps.get(_BEFORE.get(ctx.step, ""))
    if row is None or row.answer is None:
        return row is None
    before = dict(unpack(row.answer)[0]).get(CONTEXT, b"")
    return ctx.facts.startswith(before[:-1] + b",")


def starts_itself(saga: UUID, request: TradeRequested) -> bool:
    """Return whether the saga's id is derived from this request."""
    return saga_id(trade.name, request.account, request.idempotency_key) == saga


def _asked(claim: Claim) -> StepQuery | None:
    match claim.kind:
        case StepMessage.TRIGGER if claim.step in _BEFORE:
            return StepQuery(claim.saga_id, _BEFORE[claim.step], answered=True)
        case StepMessage.COMPENSATE if claim.step in _AFTER:
            return StepQuery(claim.saga_id, _AFTER[claim.step], answered=False)
        case _:
            return None


def _refute_start(claim: Claim) -> str | None:
    try:
        request = TradeRequested.from_wire(claim.value)
    except ValidationError:
        return None  # the step handles an unreadable start
    if not starts_itself(claim.saga_id, request):
        return "the saga's id is not that of the request's account and idempotency key"
    if claim.envelope.context != splice(b"", TradeRequested.NAME, claim.value):
        return "the context of the start is not the request"
    return None


def _refute_answer(claim: Claim, known: Trade) -> str | None:
    """Compare the record byte for byte with the answer of the previous step."""
    before = _BEFORE[claim.step]
    row = known.steps.get(before)
    if row is None or row.answer is None:
        return f"{before!r} has not answered"
    headers, value = unpack(row.answer)
    answered = dict(headers)
    if answered.get(TYPE, b"") != claim.envelope.type.encode():
        return f"{before!r} answered {answered.get(TYPE, b'').decode()}"
    if value != claim.value:
        return f"{before!r} answered with other values"
    if answered.get(CONTEXT, b"") != claim.envelope.context:
        return f"{before!r} answered with another context"
    return None


def _refute_beginning(claim: Claim, known: Trade) -> str | None:
    """Check what the step needs: the previous step, the order, and its hold."""
    before, order = _BEFORE[claim.step], known.order
    if (status := known.steps[before].status) is not RowStatus.DONE:
        return f"{before!r} is {status.name}"
    if order is None:
        return "the order is not in the register"
    wanted, held = _NEEDS[claim.step]
    if order.status != wanted:
        return f"the order is {order.status} in the register, not {wanted}"
    if held and known.held != order.hold:
        return f"the hold of the order is {known.held:f} {order.hold_asset}, not {order.hold:f}"
    return None


def _report(claim: Claim) -> VenueReport | None:
    if claim.kind is not StepMessage.REPORT:
        return None
    try:
        return VenueReport.from_wire(claim.value)
    except ValidationError:
        return None


def _refute_report(claim: Claim, known: Trade) -> str | None:
    report = _report(claim)
    if report is None:
        return "the report cannot be read"
    body = known.stored.get(identify(report))
    if body is None:
        return f"the venue's feed has stored no {report.kind!r} of this id"
    if body != claim.value:
        stored = VenueReport.from_wire(body)
        if (stored.kind, stored.fill) != (report.kind, report.fill):
            return f"the venue's feed has stored another {report.kind!r} under this id"
    return None


def _refute_compensation(claim: Claim, known: Trade) -> str | None:
    if claim.status not in _HAS_RUN:
        return f"{claim.step!r} has nothing to compensate: {claim.status.name if claim.status else 'it has not run'}"
    after = known.steps.get(_AFTER[claim.step])
    if after is None or after.status not in _CLOSED:
        return f"{_AFTER[claim.step]!r} still needs it: {after.status.name if after else 'it has not been closed'}"
    return None
