"""Signs checkpoints of the audit log and writes them to PostgreSQL and to the witness.

It reads only the hashes that the saga log wrote; `tradesaga audit verify` reads the records.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final

from tradesaga.consumers.audit.log.action_log import ActionLog
from tradesaga.consumers.audit.log.checkpoints import (
    HistoryError,
    OffsetError,
    Sealed,
    SealedLog,
    UnsealedRow,
    load_logs,
    notes_after,
    read_ends,
    read_new,
    write_checkpoints,
    write_past,
)
from tradesaga.consumers.audit.log.retired_ranges import RetiredRanges
from tradesaga.consumers.audit.log.rows import first_offset
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, hash_note
from tradesaga.infra.audit_log.clock_evidence import ClockEvidence
from tradesaga.infra.audit_log.note import Signer, Verifier, open_note
from tradesaga.infra.audit_log.witness import WitnessEntry, WitnessError, WitnessFile
from tradesaga.infra.postgres.database import Connection

AHEAD: Final = 1000
"""The maximum number of checkpoints per log that are read ahead."""


class CheckpointRestore:
    """Reads checkpoints that the database has lost from the witness.

    `owed` has by origin the sizes between which checkpoints are missing: the first excluded, the last included.
    """

    def __init__(self, witness: WitnessFile, owed: Mapping[str, tuple[int, int]]) -> None:
        self._owed = dict(owed)
        self._queues = {origin: deque[WitnessEntry]() for origin in owed}
        self._lines = witness.read() if owed else iter(())

    def owes(self, origin: str) -> bool:
        """Return whether checkpoints of a log are still missing."""
        return origin in self._owed

    def next(self, origin: str) -> WitnessEntry | None:
        """Return the next checkpoint of a log; None while `AHEAD` checkpoints of another log wait for its records.

        Raises `WitnessError`.
        """
        queue = self._queues[origin]
        while not queue and all(len(each) < AHEAD for each in self._queues.values()):
            line = next(self._lines, None)
            if line is None:
                raise WitnessError(f"the witness ends before its last checkpoint of {origin}")
            after, last = self._owed.get(line.origin, (0, 0))
            if after < line.size <= last:
                self._queues[line.origin].append(line)
        return queue[0] if queue else None

    def take(self, origin: str) -> WitnessEntry:
        """Remove and return the next checkpoint of a log."""
        found = self._queues[origin].popleft()
        if found.size == self._owed[origin][1]:
            del self._owed[origin], self._queues[origin]
        return found


ROWS: Final = 2000
"""Rows of one log that one pass reads."""


@dataclass
class Sealer:
    """Seals the logs of some sagas; `groups` has the topic by consumer group of the saga log.

    `trusted` are the current and past keys, by id, whose signatures in the witness count. `halted` has, by origin, why
    a log is not sealed while the others are. `unsealed` has, by topic, the broker's time of the oldest record that the
    last pass left unsealed, in milliseconds since 1970.
    """

    signer: Signer
    trusted: Mapping[bytes, Verifier]
    log_id: str
    groups: Mapping[str, str]
    witness: WitnessFile
    halted: dict[str, str] = field(default_factory=dict[str, str])
    unsealed: dict[str, int] = field(default_factory=dict[str, int])
    _logs: dict[tuple[str, int], SealedLog] = field(default_factory=dict[tuple[str, int], SealedLog])
    _restoring: CheckpointRestore = field(init=False)

    def __post_init__(self) -> None:
        self._restoring = CheckpointRestore(self.witness, {})

    async def open(self, sql: Connection) -> None:
        """Read the sealed logs from the database and compare them with the witness.

        Raises `HistoryError` where the two contradict each other, `WitnessError`, and `NoteError` for an entry of the
        witness that no trusted key has signed.
        """
        self._logs = await load_logs(sql, self.log_id, list(self.groups.values()))
        self.halted = _sealed_beyond(self._logs.values(), await read_ends(sql))
        last = self.witness.last()
        for log in self._logs.values():
            seen = last.get(str(log.origin))
            async for missing in notes_after(sql, log.origin, seen.size if seen is not None else 0):
                self._witness([(log.origin, note) for _, note in missing])
        behind = {text: seen for text, seen in last.items() if self._is_behind(Origin.parse(text), seen)}
        if behind:
            await self._begin_behind_retired(sql, behind)
        owed = {text: (self._logs[Origin.parse(text)[1:]].sealed, seen.size) for text, seen in behind.items()}
        self._restoring = CheckpointRestore(
            self.witness, {text: span for text, span in owed.items() if span[0] < span[1]}
        )

    def _is_behind(self, origin: Origin, last: WitnessEntry) -> bool:
        """Compare a log with the witness's last checkpoint; return whether that covers more records."""
        if origin.log_id != self.log_id or origin.topic not in self.groups.values():
            return False
        log = self._logs.setdefault(origin[1:], SealedLog.empty(origin))
        if log.sealed == last.size and log.frontier.root() != self._read(last).root:
            raise HistoryError(f"{origin}: the database's checkpoint of {log.sealed} records is not the witness's")
        return log.sealed < last.size

    async def _begin_behind_retired(self, sql: Connection, behind: Mapping[str, WitnessEntry]) -> None:
        """Begin logs after their retired records, and restore the checkpoints of those from the witness."""
        actions = ActionLog(sql, self.log_id, self.trusted, self.witness)
        async with actions.turn():
            retired = RetiredRanges.read(actions.actions)
        begun: dict[str, SealedLog] = {}
        for text in behind:
            log = self._logs[Origin.parse(text)[1:]]
            found = retired.before(log.origin[1:], await first_offset(sql, *log.origin[1:]))
            if found is not None and log.frontier.size < found[1].frontier.size:
                log.frontier, log.next_offset = found[1].frontier.copy(), found[1].next_offset
                log.leaves_from = self._read(behind[text]).leaves_from
                begun[text] = log
        past: list[tuple[Origin, int, str]] = []
        for each in self.witness.read() if begun else ():
            log = begun.get(each.origin)
            if log is None or not log.sealed < each.size <= log.frontier.size:
                continue
            if each.size == log.frontier.size and self._read(each).root != log.frontier.root():
                raise HistoryError(f"{log.origin}: what is left of {each.size} retired records is not what was sealed")
            past.append((log.origin, each.size, each.note))
            log.sealed, log.previous = each.size, hash_note(each.note)
            if len(past) == ROWS:
                await write_past(sql, past)
                past = []
        await write_past(sql, past)

    def _read(self, witnessed: WitnessEntry) -> Checkpoint:
        return Checkpoint.parse(open_note(witnessed.note, self.trusted)[0])

    async def seal(self, sql: Connection, clock: ClockEvidence) -> list[Sealed]:
        """Sign every log that has grown; return the checkpoints once database and witness have them.

        Checkpoints that only the witness has are restored in the database if its records are the sealed ones; raises
        `HistoryError` if they are not. A log in which an offset occurs twice is skipped.
        """
        restored: list[Sealed] = []
        found = await read_new(sql, list(self.groups), list(self._logs.values()), ROWS)
        new = [(self._log(place), list(rows)) for place, rows in groupby(found, itemgetter(0, 1))]
        for log, rows in new:
            if str(log.origin) not in self.halted:
                restored += self._take(log, rows)
        now = time.time_ns()
        grown = [log for log in self._logs.values() if log.frontier.size > log.sealed and self._may_seal(log)]
        sealed = [log.seal(self.signer, now, clock) for log in grown]
        await write_checkpoints(sql, restored + sealed)
        self._witness([(each.origin, each.note) for each in sealed])
        self.unsealed = self._oldest_unsealed(new)
        return restored + sealed

    def _log(self, place: tuple[str, int]) -> SealedLog:
        log = self._logs.get(place)
        if log is None:
            log = self._logs[place] = SealedLog.empty(Origin(self.log_id, *place))
        return log

    def _take(self, log: SealedLog, rows: Sequence[UnsealedRow]) -> list[Sealed]:
        """Append rows to their log, or leave them for a later pass; return the restored checkpoints."""
        name, restoring = str(log.origin), self._restoring
        restored: list[Sealed] = []
        try:
            for row in rows:
                if not restoring.owes(name):
                    log.take(row.offset, row.hash)
                elif (due := restoring.next(name)) is not None:
                    log.take(row.offset, row.hash)
                    if log.frontier.size == due.size:
                        restored.append(self._restore(log))
        except OffsetError as error:
            self.halted[name] = str(error)
        return restored

    def _may_seal(self, log: SealedLog) -> bool:
        return str(log.origin) not in self.halted and not self._restoring.owes(str(log.origin))

    def _oldest_unsealed(self, new: Sequence[tuple[SealedLog, Sequence[UnsealedRow]]]) -> dict[str, int]:
        """Return the time of the oldest unsealed row by topic: of all rows of a halted log, or of the last row read."""
        oldest: dict[str, int] = {}
        for log, rows in new:
            left = rows if not self._may_seal(log) else rows[-1:] if len(rows) == ROWS else ()
            for row in left:
                oldest[row.topic] = min(oldest.get(row.topic, row.recorded_ms), row.recorded_ms)
        return oldest

    def _restore(self, log: SealedLog) -> Sealed:
        """Adopt the witness's checkpoint of the current state."""
        due = self._restoring.take(str(log.origin))
        if log.frontier.root() != self._read(due).root:
            raise HistoryError(f"{log.origin}: its first {due.size} records are not those that the witness has sealed")
        return log.sealed_as(due.note)

    def _witness(self, notes: Sequence[tuple[Origin, str]]) -> None:
        self.witness.append(WitnessEntry(str(origin), int(note.split("\n", 2)[1]), note) for origin, note in notes)


def _sealed_beyond(logs: Iterable[SealedLog], ends: Mapping[tuple[str, int], int]) -> dict[str, str]:
    """Return, by origin, why logs that are sealed beyond what the saga log has read cannot be sealed.

    An older release signed a forged row. No record before that row could ever be sealed.
    """
    return {
        str(log.origin): f"{log.origin}: sealed up to offset {log.next_offset}, but the saga log has read up to {end}"
        for log in logs
        if (end := ends.get(log.origin[1:])) is not None and end < log.next_offset
    }
