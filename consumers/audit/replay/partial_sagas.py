"""Sagas of which a range has not the first records: they cannot be folded, so their rows are compared one by one."""

from collections.abc import Iterator
from uuid import UUID

import asyncpg

from tradesaga.consumers.audit.replay.differences import Difference, compare_fields, said_by
from tradesaga.consumers.saga_log.chain import link_as, stored_skip
from tradesaga.infra.kafka.codec import Record

Head = tuple[int, bytes]
"""How many records of a saga there have been, and the hash of the last; (0, b"") where nobody can tell."""


class Fragments:
    """The chains of such sagas, taken up where their rows say that they were."""

    def __init__(self) -> None:
        self.heads: dict[UUID, Head] = {}

    def __contains__(self, saga_id: UUID) -> bool:
        return saga_id in self.heads

    def take(self, saga_id: UUID, record: Record, row: asyncpg.Record | None, form: int) -> Iterator[Difference]:
        """Compare a record with its row: bytes and columns, and the chain from the second record on."""
        expected = {**said_by(record, form), "saga_id": saga_id, "skipped": stored_skip(record, form)}
        seq, head = self.heads.get(saga_id, (0, b""))
        if row is None:
            self.heads[saga_id] = (0, b"")
        elif row["seq"] is None:
            self.heads.setdefault(saga_id, (0, b""))
            expected["hash"] = link_as(form, b"", record)
        else:
            if head:
                expected["seq"], expected["hash"] = seq + 1, link_as(form, head, record)
            self.heads[saga_id] = (row["seq"], row["hash"])
        yield from compare_fields(record, row, expected)
