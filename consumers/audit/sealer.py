"""The sealer: about once a second it signs what the audit log has become, and tells PostgreSQL, Kafka and a witness.

It reads the hashes that the saga log wrote and nothing of the records themselves; `tradesaga audit verify` reads those.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from consumers.audit import store
from consumers.audit.sealing import HistoryError, Sealed, SealedLog
from infra.audit.checkpoint import Checkpoint
from infra.audit.clock_evidence import ClockEvidence
from infra.audit.note import Signer, Verifier, open_note
from infra.audit.origin import Origin
from infra.audit.witness import Witnessed, WitnessFile
from infra.database import Connection

ROWS: Final = 2000
"""Rows of one log that are read at once; a second's worth, or a part of what has been left over."""


@dataclass
class Sealer:
    """Seals the logs of some sagas: `groups` gives the topic that each saga log's consumer group reads.

    `trusted` are the keys, by id, that may have signed what the witness has: the present one and those before it.
    """

    signer: Signer
    trusted: Mapping[bytes, Verifier]
    log_id: str
    groups: Mapping[str, str]
    witness: WitnessFile
    _logs: dict[tuple[str, int], SealedLog] = field(default_factory=dict[tuple[str, int], SealedLog])
    _owed: dict[tuple[str, int], deque[Witnessed]] = field(default_factory=dict[tuple[str, int], deque[Witnessed]])

    async def open(self, sql: Connection) -> None:
        """Go on where the database says, and hold it against the witness.

        Raises `HistoryError` where the two contradict each other, `WitnessError`, and `NoteError` where the witness has
        what no trusted key has signed.
        """
        self._logs = await store.load_logs(sql, self.log_id, list(self.groups.values()))
        self._owed = {}
        last = {each.origin: each for each in self.witness.read()}
        for log in self._logs.values():
            seen = last.get(str(log.origin))
            missing = await store.notes_after(sql, log.origin, seen.size if seen is not None else 0)
            self._witness([(log.origin, note) for note in missing])
        behind = {text for text, seen in last.items() if self._is_behind(Origin.parse(text), seen)}
        for each in self.witness.read() if behind else ():
            origin = Origin.parse(each.origin)
            if each.origin in behind and each.size > self._logs[origin[1:]].sealed:
                self._owed.setdefault(origin[1:], deque()).append(each)

    def _is_behind(self, origin: Origin, last: Witnessed) -> bool:
        """Hold one log against the witness's last checkpoint of it; say whether that knows of more records."""
        if origin.log_id != self.log_id or origin.topic not in self.groups.values():
            return False
        log = self._logs.setdefault(origin[1:], SealedLog.empty(origin))
        if log.sealed == last.size and log.edge.root() != self._read(last).root:
            raise HistoryError(f"{origin}: the database's checkpoint of {log.sealed} records is not the witness's")
        return log.sealed < last.size

    def _read(self, witnessed: Witnessed) -> Checkpoint:
        return Checkpoint.parse(open_note(witnessed.note, self.trusted)[0])

    async def seal(self, sql: Connection, clock: ClockEvidence) -> list[Sealed]:
        """Sign every log that has grown; give what was signed, once database and witness have it.

        What the database has lost of the witness's checkpoints is written into it again, if the records are those that
        were sealed. Raises `HistoryError` if they are not.
        """
        restored: list[Sealed] = []
        rows = await store.read_new(sql, list(self.groups), list(self._logs.values()), ROWS)
        for topic, partition, offset, record_hash in rows:
            place = (topic, partition)
            log = self._logs.get(place)
            if log is None:
                log = self._logs[place] = SealedLog.empty(Origin(self.log_id, topic, partition))
            log.take(offset, record_hash)
            if place in self._owed:
                restored += self._restore(place, log)
        now = time.time_ns()
        grown = [log for place, log in self._logs.items() if log.edge.size > log.sealed and place not in self._owed]
        sealed = [log.seal(self.signer, now, clock) for log in grown]
        await store.write_checkpoints(sql, restored + sealed)
        self._witness([(each.origin, each.note) for each in sealed])
        return restored + sealed

    def _restore(self, place: tuple[str, int], log: SealedLog) -> list[Sealed]:
        """Take over the witness's checkpoint of what the log is now, if it has one."""
        owed = self._owed[place]
        if log.edge.size < owed[0].size:
            return []
        if log.edge.root() != self._read(owed[0]).root:
            raise HistoryError(
                f"{log.origin}: its first {owed[0].size} records are not those that the witness has sealed"
            )
        note = owed.popleft().note
        if not owed:
            del self._owed[place]
        return [log.sealed_as(note)]

    def _witness(self, notes: Sequence[tuple[Origin, str]]) -> None:
        self.witness.append(Witnessed(str(origin), int(note.split("\n", 2)[1]), note) for origin, note in notes)
