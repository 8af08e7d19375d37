"""What the records and rows of a batch claim, for the participant's evidence to judge."""

from collections.abc import Mapping, Sequence

from tradesaga.consumers.evidence import Claim
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.step_rows import Row
from tradesaga.consumers.runtime.trigger import Check, Trigger
from tradesaga.sagas.decide import StepMessage
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.message import Message as Payload


def claim_message(message: Message, row: Row | None) -> Claim:
    """Return what a record claims of its step, whose row is `row`."""
    begun = row is not None and not (row.status is RowStatus.WAITING and row.input is None)
    status = row.status if row is not None else None
    return Claim(message.kind, message.key[1], message.saga_id, message.envelope, message.value, status, begun)


def claim_due(row: Row, payloads: Mapping[str, type[Payload]], check: Check) -> Claim | None:
    """Return what an attempt that is about to begin relies on, or None where nothing begins.

    Raises `ValueError` or `LookupError` for a stored record that cannot be read.
    """
    kind = StepMessage.TRIGGER if row.status is RowStatus.RETRY else StepMessage.COMPENSATE
    framed = row.input if kind is StepMessage.TRIGGER else row.back_input
    if row.status not in {RowStatus.RETRY, RowStatus.COMPENSATING} or framed is None:
        return None
    trigger = Trigger.stored(framed, payloads, check)
    return Claim(kind, row.step, row.saga_id, trigger.envelope, trigger.value, row.status, begun=False)


def claim_batch(
    messages: Sequence[Message], due: Sequence[Row], payloads: Mapping[str, type[Payload]], check: Check
) -> list[Claim]:
    """Return what a batch claims, so that the evidence of all of it can be read at once."""
    claims = [claim_message(message, None) for message in messages]
    for row in due:
        try:
            claim = claim_due(row, payloads, check)
        except (ValueError, LookupError):
            continue  # told when the row is taken up
        if claim is not None:
            claims.append(claim)
    return claims
