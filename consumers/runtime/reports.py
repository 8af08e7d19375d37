"""Read and mark stored reports of waiting steps, for a whole batch at once.

The reports of a saga are read only where they may complete its step: reading all of them for each new one would take
quadratic time.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import ValidationError

from tradesaga.consumers.context import ReportStore
from tradesaga.consumers.participant import Participant
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.outcome import Completion, Reported
from tradesaga.consumers.runtime.step_rows import Key, Row
from tradesaga.infra.postgres.database import Connection
from tradesaga.sagas.decide import StepMessage
from tradesaga.sagas.step_state import RowStatus
from tradesaga.schemas.messages.message import Event

Report = tuple[UUID, str, str]
"""A report by saga, step and its own id."""


class Kept(NamedTuple):
    """A step's report store, and the function that returns a report's id."""

    store: ReportStore
    correlate: Callable[[Any], str]


Stores = Mapping[str, Kept]
"""By step."""


def stores_of(participant: Participant) -> Stores:
    """Return the stores of a participant's steps."""
    return {
        name: Kept(binding.store, binding.correlate)
        for name, binding in participant.bindings.items()
        if binding.store is not None and binding.correlate is not None
    }


async def read_reports(
    stores: Stores,
    sql: Connection,
    messages: Sequence[Message],
    completions: Sequence[Completion],
    rows: Mapping[Key, Row],
) -> tuple[Mapping[Key, Sequence[Event]], set[Report]]:
    """Store the reports that polls and bars returned, and read those that may complete a step of this batch.

    Returns them, and the late reports that answers already include. Three statements for each store.
    """
    found: dict[Key, Sequence[Event]] = {}
    counted: set[Report] = set()
    open_, late = _may_answer(messages, completions, rows), _late(stores, messages, rows)
    for step, (store, _) in stores.items():
        brought = [
            (each.saga_id, report)
            for each in completions
            if each.step == step and isinstance(each.outcome, Reported)
            for report in each.outcome.reports
        ]
        if brought:
            await store.save(sql, brought)
        if sagas := sorted({saga_id for saga_id, name in open_ if name == step}):
            stored = await store.load(sql, sagas)
            found |= {(saga_id, step): reports for saga_id, reports in stored.items()}
        if asked := late.get(step):
            counted |= {(saga_id, step, ident) for saga_id, ident in await store.find_counted(sql, asked)}
    return found, counted


async def mark_counted(stores: Stores, sql: Connection, reports: Collection[Report]) -> None:
    """Mark the reports that the answers of this batch include: one statement for each store."""
    by_step: dict[str, list[tuple[UUID, str]]] = {}
    for saga_id, step, ident in reports:
        by_step.setdefault(step, []).append((saga_id, ident))
    for step, counted in by_step.items():
        await stores[step].store.mark_counted(sql, counted)


def _may_answer(messages: Sequence[Message], completions: Sequence[Completion], rows: Mapping[Key, Row]) -> set[Key]:
    """Return the keys of the rows that this batch may complete."""
    reported = {each.key for each in messages if each.kind is StepMessage.REPORT}
    others = {each.key for each in messages if each.kind is not StepMessage.REPORT} | {each.key for each in completions}
    waiting = {
        key
        for key in reported
        if (row := rows.get(key)) is not None and row.status is RowStatus.WAITING and (row.input or row.bar_seen)
    }
    return waiting | {key for key in others if _is_open(rows.get(key))}


def _is_open(row: Row | None) -> bool:
    return row is None or row.status in {RowStatus.WAITING, RowStatus.FAILED}


def _late(stores: Stores, messages: Sequence[Message], rows: Mapping[Key, Row]) -> Mapping[str, set[tuple[UUID, str]]]:
    """Return, by step, the reports for rows that are already answered."""
    found: dict[str, set[tuple[UUID, str]]] = {}
    for each in messages:
        kept, row = stores.get(each.key[1]), rows.get(each.key)
        if (
            each.kind is StepMessage.REPORT
            and kept is not None
            and row is not None
            and row.status is not RowStatus.WAITING
        ):
            with suppress(ValidationError):  # reported when the message is processed
                ident = kept.correlate(each.payload.from_wire(each.value))
                found.setdefault(each.key[1], set()).add((each.saga_id, ident))
    return found
