"""The hashes that a topic's records have in the audit log, computed from their bytes alone."""

from uuid import UUID

from tradesaga.consumers.saga_log.chain import FORMAT, link_as
from tradesaga.consumers.saga_log.checkpoint import Tracked
from tradesaga.consumers.saga_log.fold import fold_record
from tradesaga.consumers.saga_log.reading import saga_of
from tradesaga.consumers.saga_log.rules import Rules
from tradesaga.infra.kafka.codec import Record
from tradesaga.schemas.envelope import SAGA_ID


class Chains:
    """The sagas' chains on one partition: about 200 bytes of memory a saga.

    Until a saga has started, only folding can tell whether a record counts in its chain; after that, all of them do.
    Hashes are of format 2 from the offset `leaves_from` on.
    """

    def __init__(self, rules: Rules, leaves_from: int = 0) -> None:
        self._rules = rules
        self._leaves_from = leaves_from
        self._heads: dict[bytes, bytes] = {}
        self._early: dict[UUID, Tracked] = {}

    def form_of(self, record: Record) -> int:
        """Return the format of a record's hash."""
        return FORMAT if record.offset >= self._leaves_from else 1

    def take(self, record: Record) -> bytes:
        """Give the hash of the next record, in offset order."""
        said, form = record.header(SAGA_ID), self.form_of(record)
        head = self._heads.get(said)
        if head is not None and record.key == said:
            found = self._heads[said] = link_as(form, head, record)
            return found
        return self._fold(record, form)

    def _fold(self, record: Record, form: int) -> bytes:
        saga_id = saga_of(record)
        before = None
        if saga_id is not None:
            before = self._early.get(saga_id) or Tracked(saga_id, self._rules.home(saga_id))
        outcome = fold_record(self._rules, before, record, form)
        after = outcome.tracked
        if after is not None and after.checkpoint is not None:
            self._heads[str(after.saga_id).encode()] = after.checkpoint.head
            self._early.pop(after.saga_id, None)
        elif after is not None and after.parked:
            self._early[after.saga_id] = after
        return outcome.entry.hash
