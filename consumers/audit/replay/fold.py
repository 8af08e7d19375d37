"""The records of a topic folded again, by the very fold of the saga log, and nothing published."""

from tradesaga.consumers.audit.replay.saga_cache import Shelf
from tradesaga.consumers.saga_log.chain import FORMAT
from tradesaga.consumers.saga_log.checkpoint import Tracked
from tradesaga.consumers.saga_log.fold import fold_record, park_record
from tradesaga.consumers.saga_log.outcome import Outcome
from tradesaga.consumers.saga_log.reading import awaited_version, saga_of
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.kafka.codec import Record
from tradesaga.schemas.envelope import VERSION


class Replayed:
    """What the records of partitions, each taken in offset order, come to."""

    def __init__(self, rules: Rules, sagas: Shelf) -> None:
        self._rules = rules
        self._sagas = sagas

    def take(self, record: Record, form: int = FORMAT, error: str | None = None) -> Outcome:
        """Fold the next record; `form` is the format of its hash, `error` what its row notes.

        The row alone tells whether a record waited for a version of the definition.
        """
        saga_id = saga_of(record)
        before = None
        if saga_id is not None:
            before = self._sagas.get(saga_id) or Tracked(saga_id, self._rules.home(saga_id))
        if before is not None and error and (waited := _waited(before, record, error)):
            outcome = park_record(self._rules, before, record, waited, form)
        else:
            outcome = fold_record(self._rules, before, record, form)
        after = outcome.tracked
        if after is not None and after is not before and (after.checkpoint is not None or after.parked):
            self._sagas.keep(after)
        return outcome


def _waited(before: Tracked, record: Record, error: str) -> str:
    """Return the reason for which a record waited for its saga's own version; empty where it did not."""
    reason = error.removeprefix("parked: ")
    awaited = awaited_version(reason) if reason != error else 0
    version = str(before.checkpoint.version).encode() if before.checkpoint is not None else record.header(VERSION)
    return reason if awaited and version == b"%d" % awaited else ""
