"""The state of a replay: sagas, offsets and differences, in a file from which it can be resumed or in memory."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

import orjson

from tradesaga.consumers.audit.replay.differences import Difference, PartialSagas
from tradesaga.consumers.audit.replay.request import Span
from tradesaga.consumers.audit.replay.saga_cache import KEPT, TABLE, SagaCache
from tradesaga.consumers.saga_log.chain import link_v1
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.consumers.saga_log.tracked_saga import Tracked
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.codec import Record, dump_headers_v1
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.topic_reader import TopicReader


@dataclass(frozen=True, slots=True)
class ProgressReporter:
    """Progress callbacks: `sized` with the number of all records, `advance` with that of each batch."""

    sized: Callable[[int], object]
    advance: Callable[[int], object]


NO_PROGRESS = ProgressReporter(lambda _: None, lambda _: None)


@dataclass
class SagaCounts:
    """The numbers of replayed sagas: started ones by state, those not started, and those with parked records."""

    sagas: int = 0
    unstarted: int = 0
    parked: int = 0
    states: dict[str, int] = field(default_factory=dict[str, int])

    def count(self, tracked: Tracked) -> None:
        """Count a saga."""
        self.parked += bool(tracked.parked)
        if tracked.snapshot is None:
            self.unstarted += 1
            return
        self.sagas += 1
        state = tracked.snapshot.status.value
        self.states[state] = self.states.get(state, 0) + 1


FORMAT: Final = 1
REMEMBERED: Final = 10_000
"""The maximum number of differences that are stored; further ones are counted."""
_TABLES: Final = (
    TABLE,
    "CREATE TABLE identity (told BLOB)",
    "CREATE TABLE count (name TEXT PRIMARY KEY, value INTEGER)",
    "CREATE TABLE mark (topic TEXT, partition INTEGER, next_offset INTEGER, last BLOB, PRIMARY KEY (topic, partition))",
    "CREATE TABLE fragment (saga_id BLOB PRIMARY KEY, seq INTEGER, head BLOB)",
    "CREATE TABLE difference (place TEXT, field TEXT, topics TEXT, database TEXT, UNIQUE (place, field))",
)


class Identity(NamedTuple):
    """Identifies a replay; the state of another one cannot be resumed.

    `definitions` are the steps of each version of the saga; `purpose` identifies the range and the kind of replay.
    """

    cluster: str
    saga: str
    definitions: dict[str, str]
    partitions: int
    purpose: str

    @classmethod
    def of(cls, rules: Rules, cluster: str, purpose: str) -> "Identity":
        """Return the identity of a replay of a saga on a cluster."""
        steps = {
            str(number): " ".join(step.name for step in each.saga.steps) for number, each in rules.versions.items()
        }
        return cls(cluster, rules.saga.name, steps, rules.partitions, purpose)


class Watermark(NamedTuple):
    """The next offset of a partition, and the hash of the last record, which identifies it."""

    next_offset: int
    last: bytes


class ReplayState:
    """The state in SQLite; changes since the last save are lost together if the process dies.

    `kept` is the maximum number of sagas in memory.
    """

    def __init__(self, path: Path | None, identity: Identity, rules: Rules, kept: int = KEPT) -> None:
        self._where = str(path or "")
        self._sql = _open(path)
        try:
            self._recognise(identity)
        except BaseException:
            self._sql.close()
            raise
        self.sagas = SagaCache(self._sql, rules, kept)
        self.watermarks: dict[Partition, Watermark] = {
            (topic, partition): Watermark(*rest) for topic, partition, *rest in self._sql.execute("SELECT * FROM mark")
        }
        self.counts: dict[str, int] = dict(self._sql.execute("SELECT * FROM count"))
        self.partial_sagas = PartialSagas()
        for saga_id, *head in self._sql.execute("SELECT * FROM fragment"):
            self.partial_sagas.heads[UUID(bytes=saga_id)] = (head[0], head[1])
        self._sql.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sql.close()

    def save(self) -> None:
        """Commit the state."""
        self.sagas.flush()
        watermarks = [(*place, *watermark) for place, watermark in self.watermarks.items()]
        self._sql.executemany("INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", watermarks)
        self._sql.executemany("INSERT OR REPLACE INTO count VALUES (?, ?)", self.counts.items())
        heads = [(saga_id.bytes, *head) for saga_id, head in self.partial_sagas.heads.items()]
        self._sql.executemany("INSERT OR REPLACE INTO fragment VALUES (?, ?, ?)", heads)
        self._sql.execute("COMMIT")
        self._sql.execute("BEGIN")

    async def check(self, replay: TopicReader, held: Mapping[Partition, Span]) -> None:
        """Check that the topic is the one that was read before. Raises `CommandError` (exit 4) if it is not."""
        for place, watermark in self.watermarks.items():
            begin, end = held.get(place, (0, 0))
            where = f"{place[0]}[{place[1]}]"
            if watermark.next_offset > end:
                raise self._refusal(
                    f"it has read {where} up to offset {watermark.next_offset}; the topic ends at {end}"
                )
            last = watermark.next_offset - 1
            if last < begin:
                continue
            async for batch in replay.read_remaining(place, last, watermark.next_offset):
                if fingerprint(batch[0]) != watermark.last:
                    raise self._refusal(f"{where} offset {last} is not the record that was read there")

    def next_offset(self, place: Partition, begin: int) -> int:
        """Return the offset from which to read a partition, at least `begin`."""
        watermark = self.watermarks.get(place)
        return max(begin, watermark.next_offset) if watermark is not None else begin

    def add(self, name: str, number: int) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + number

    def differ(self, found: Iterable[Difference]) -> list[Difference]:
        """Store differences; return the new ones."""
        fresh: list[Difference] = []
        for each in found:
            if self.counts.get("differing", 0) < REMEMBERED:
                if self._sql.execute("INSERT OR IGNORE INTO difference VALUES (?, ?, ?, ?)", each).rowcount:
                    fresh.append(each)
                    self.add("differing", 1)
            else:
                self.add("differing", 1)
        return fresh

    def differences(self, limit: int) -> list[Difference]:
        """Return stored differences, oldest first."""
        rows = self._sql.execute("SELECT * FROM difference ORDER BY rowid LIMIT ?", (limit,))
        return [Difference(*row) for row in rows]

    def _recognise(self, identity: Identity) -> None:
        """Create the tables, or check that the file is of this replay."""
        try:
            if not self._sql.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _TABLES:
                    self._sql.execute(statement)
                self._sql.execute("INSERT INTO identity VALUES (?)", (_dump(identity),))
                return
            told = orjson.loads(self._sql.execute("SELECT told FROM identity").fetchone()[0])
        except (sqlite3.DatabaseError, TypeError, orjson.JSONDecodeError) as error:
            raise self._refusal(_why(error)) from error
        if "version" in told:  # written before several versions could be registered
            told["definitions"] = {str(told.pop("version")): told.pop("steps")}
        self._compare(told, orjson.loads(_dump(identity)))

    def _compare(self, told: dict[str, Any], mine: dict[str, Any]) -> None:
        """Reject another replay's file; an added version of the saga does not invalidate the state."""
        added = {number: steps for number, steps in mine["definitions"].items() if number not in told["definitions"]}
        told["definitions"] |= added
        for name, value in mine.items():
            if told.get(name) != value:
                raise self._refusal(f"it is of another replay: {name} {told.get(name)!r}, not {value!r}")
        if added:
            self._sql.execute("UPDATE identity SET told = ?", (orjson.dumps(told),))

    def _refusal(self, what: str) -> CommandError:
        do = "name the right file, or a new one: it is made"
        return CommandError("resume-refused", what, self._where, do, ExitCode.REFUSED)


def file_for(path: Path | None, identity: Identity) -> Path | None:
    """Return the file to resume from: a separate one while versions of the file's sagas are not registered."""
    if path is None or not path.exists():
        return path
    try:
        with closing(sqlite3.connect(path, timeout=1.0)) as sql:
            told = orjson.loads(sql.execute("SELECT told FROM identity").fetchone()[0])
    except (sqlite3.DatabaseError, TypeError, orjson.JSONDecodeError):
        return path
    if told.get("definitions", {}).keys() <= identity.definitions.keys():
        return path
    return path.with_name(
        f"{path.stem}-without-{'-'.join(sorted(told['definitions'].keys() - identity.definitions))}.db"
    )


def fingerprint(record: Record) -> bytes:
    """Return the hash of a record's bytes and position, in the format of all releases."""
    return link_v1(b"", record, dump_headers_v1(record.headers))


def _open(path: Path | None) -> sqlite3.Connection:
    """Open the file exclusively, or a temporary database."""
    settings = ("journal_mode = OFF", "synchronous = OFF")
    if path is not None:
        # A crash must leave the last commit intact, and no other process may write.
        settings = ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL")
    try:
        sql = sqlite3.connect(path or "", isolation_level=None, timeout=1.0)
        for setting in (*settings, "cache_size = -16000"):
            sql.execute(f"PRAGMA {setting}")
    except sqlite3.DatabaseError as error:
        what, do = f"it cannot be used: {_why(error)}", "name a file of a replay, or a new one where one may be made"
        raise CommandError("resume-refused", what, str(path), do, ExitCode.REFUSED) from error
    return sql


def _why(error: Exception) -> str:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return "another process uses it"
    if isinstance(error, sqlite3.OperationalError) and "unable to open" in str(error):
        return "it cannot be opened"
    return "it is not a file of a replay"


def _dump(identity: Identity) -> bytes:
    return orjson.dumps({"format": FORMAT, **identity._asdict()})
