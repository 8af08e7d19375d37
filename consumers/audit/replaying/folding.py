"""The records of a topic folded again, by the very fold of the saga log, and nothing published."""

from consumers.audit.replaying.shelf import Shelf
from consumers.saga_log.chain import FORMAT
from consumers.saga_log.checkpoint import Tracked
from consumers.saga_log.fold import fold_record
from consumers.saga_log.outcome import Outcome
from consumers.saga_log.reading import saga_of
from consumers.saga_log.rules import Rules
from infra.codec import Record


class Replayed:
    """What the records of partitions, each taken in offset order, come to."""

    def __init__(self, rules: Rules, sagas: Shelf) -> None:
        self._rules = rules
        self._sagas = sagas

    def take(self, record: Record, form: int = FORMAT) -> Outcome:
        """Fold the next record; `form` is the format of its hash."""
        saga_id = saga_of(record)
        before = None
        if saga_id is not None:
            before = self._sagas.get(saga_id) or Tracked(saga_id, self._rules.home(saga_id))
        outcome = fold_record(self._rules, before, record, form)
        after = outcome.tracked
        if after is not None and after is not before and (after.checkpoint is not None or after.parked):
            self._sagas.keep(after)
        return outcome
