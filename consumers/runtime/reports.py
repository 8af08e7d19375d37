"""The reports of waiting steps that keep them in a store, read for a whole batch at once."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from consumers.participant import Binding
from consumers.runtime.outcome import Completion, Reported
from consumers.runtime.row import Key
from infra.database import Connection
from schemas.message import Event

_NONE: Final[Mapping[Key, Sequence[Event]]] = {}


async def read_reports(
    bindings: Mapping[str, Binding], sql: Connection, keys: Collection[Key], completions: Sequence[Completion]
) -> Mapping[Key, Sequence[Event]]:
    """Store what polls and bars have brought, and read what is stored: two statements for each step with a store."""
    found: dict[Key, Sequence[Event]] = {}
    for name, binding in bindings.items():
        if binding.store is None:
            continue
        brought = [
            (each.saga_id, report)
            for each in completions
            if each.step == name and isinstance(each.outcome, Reported)
            for report in each.outcome.reports
        ]
        if brought:
            await binding.store.save(sql, brought)
        if sagas := sorted({saga_id for saga_id, step in keys if step == name}):
            stored = await binding.store.load(sql, sagas)
            found |= {(saga_id, name): reports for saga_id, reports in stored.items()}
    return found or _NONE
