"""Folds records again as the saga log folded them, without publishing anything."""

from typing import Protocol
from uuid import UUID

from tradesaga.consumers.saga_log.chain import FORMAT
from tradesaga.consumers.saga_log.fold import FoldResult, fold_record, park_record
from tradesaga.consumers.saga_log.reading import Rules, awaited_version, saga_of
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.kafka.codec import Record
from tradesaga.schemas.envelope import VERSION


class Sagas(Protocol):
    """Storage of the sagas of a fold."""

    def get(self, saga_id: UUID) -> Tracked | None:
        """Return a saga; None if none of its records was folded."""
        ...

    def keep(self, tracked: Tracked) -> None:
        """Store a saga after a record that changed it."""
        ...


class Fold:
    """Folds the records of partitions, each in offset order, into `sagas`."""

    def __init__(self, rules: Rules, sagas: Sagas) -> None:
        self._rules = rules
        self._sagas = sagas

    def take(self, record: Record, form: int = FORMAT, error: str | None = None) -> FoldResult:
        """Fold the next record; `form` is the format of its hash, `error` that of its row."""
        saga_id = saga_of(record)
        before = None
        if saga_id is not None:
            before = self._sagas.get(saga_id) or Tracked(saga_id, self._rules.home(saga_id))
        outcome = fold_stored(self._rules, before, record, form, error)
        after = outcome.tracked
        if after is not None and after is not before and (after.snapshot is not None or after.parked):
            self._sagas.keep(after)
        return outcome


def fold_stored(rules: Rules, before: Tracked | None, record: Record, form: int, error: str | None) -> FoldResult:
    """Fold a record as the saga log did that read it; `error` is that of its row.

    Only the row shows whether the record was parked for a version of the definition that has been registered since.
    """
    if before is not None and error and (reason := _awaited(before, record, error)):
        return park_record(rules, before, record, reason, form)
    return fold_record(rules, before, record, form)


def form_at(offset: int, leaves_from: int) -> int:
    """Return the format of the hash at an offset of a log whose hashes are of format 2 from `leaves_from` on."""
    return FORMAT if offset >= leaves_from else 1


def _awaited(before: Tracked, record: Record, error: str) -> str:
    """Return the reason for which a record was parked until its saga's own version; empty for any other record."""
    reason = error.removeprefix("parked: ")
    awaited = awaited_version(reason) if reason != error else 0
    version = str(before.snapshot.version).encode() if before.snapshot is not None else record.header(VERSION)
    return reason if awaited and version == b"%d" % awaited else ""
