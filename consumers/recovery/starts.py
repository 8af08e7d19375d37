"""The front door after a recovery: from which start on nobody has answered."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.postgres.database import Connection
from tradesaga.infra.starts.accept import StartInvalidError
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.request_hash import RequestKeys

Letter = tuple[str, int, int]
"""Topic, partition and offset of a record whose copy lies in the dead letters."""
_KNOWN: Final = "SELECT saga_id FROM start_request WHERE saga_id = ANY($1::uuid[])"


def open_intake(saga: AnySaga) -> Intake | None:
    """Return the intake of a saga that can be started from outside, None for another; it reads, and hashes nothing."""
    try:
        return Intake(saga, RequestKeys(()))
    except TypeError:
        return None


async def first_unanswered(
    intake: Intake, sql: Connection, records: Sequence[Record], letters: set[Letter]
) -> int | None:
    """Give the offset of the first of these starts that became no saga, no refusal and no dead letter, if there is one.

    A start of a known saga is answered, whoever has sent it: it is that saga, or it was refused in its favour.
    """
    wanted: dict[int, UUID] = {}
    unanswered: list[int] = []
    for record in records:
        try:
            wanted[record.offset] = intake.read(record).saga_id
        except StartInvalidError:
            if (record.topic, record.partition, record.offset) not in letters:
                unanswered.append(record.offset)
    known = {row[0] for row in await sql.fetch(_KNOWN, list(wanted.values()))}
    unanswered += [offset for offset, saga_id in wanted.items() if saga_id not in known]
    return min(unanswered, default=None)
