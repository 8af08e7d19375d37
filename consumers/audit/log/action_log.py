"""The signed log of operators' actions on the audit log, in PostgreSQL and checked against the witness."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson
import structlog

from tradesaga.consumers.audit.log.checkpoints import HistoryError
from tradesaga.consumers.audit.log.log_check import Report, Verdict, by_size, check_chain, read_notes
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin, hash_note
from tradesaga.infra.audit_log.clock_evidence import read_clock
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf
from tradesaga.infra.audit_log.note import NoteError, Signer, Verifier, public_path, read_trusted
from tradesaga.infra.audit_log.witness import WitnessEntry, WitnessError, WitnessFile
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Connection, session
from tradesaga.infra.settings import SAGA_LOG, Settings

TOPIC = "audit.actions"
"""The topic in the origin of the action log, which has none."""


def actions_origin(log_id: str) -> Origin:
    """Return the origin of an installation's action log."""
    return Origin(log_id, TOPIC, 0)


class ActionKind(StrEnum):
    """The kinds of actions."""

    HOLD = "hold"
    RELEASE = "release"
    RETIRE = "retire"
    DROP = "drop"


class ActionError(ValueError):
    """The body of an entry is not an action."""


@dataclass(frozen=True, slots=True)
class Action:
    """An action of an operator; `at` is nanoseconds since 1970, and `detail` is specific to its kind."""

    kind: ActionKind
    operator: str
    reason: str
    at: int
    detail: Mapping[str, Any]

    def to_body(self) -> str:
        """Return the JSON that is signed."""
        told = {"kind": self.kind, "operator": self.operator, "reason": self.reason, "at": self.at}
        return orjson.dumps({**told, "detail": self.detail}, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def parse(cls, body: str) -> "Action":
        """Parse what `to_body` returned. Raises `ActionError`."""
        try:
            raw = orjson.loads(body)
            detail: dict[str, Any] = dict(raw["detail"])
            return cls(ActionKind(raw["kind"]), str(raw["operator"]), str(raw["reason"]), int(raw["at"]), detail)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ActionError(f"not an action: {body[:80]}") from error


class Entry(NamedTuple):
    """A stored action with its checkpoint."""

    number: int
    body: str
    note: str


def leaf(body: str) -> bytes:
    """Return the leaf hash of an entry."""
    return hash_leaf(body.encode())


def frontier_of(bodies: Sequence[str]) -> Frontier:
    """Return the frontier of the tree over entries."""
    frontier = Frontier.empty()
    for body in bodies:
        frontier.append(leaf(body))
    return frontier


def check_actions(
    report: Report, origin: Origin, entries: Sequence[Entry], checkpoints: Mapping[int, Checkpoint]
) -> list[tuple[int, Action]]:
    """Compare the entries with the checkpoints of their log; return the signed actions with their numbers."""
    frontier, signed = Frontier.empty(), 0
    for count, entry in enumerate(entries, 1):
        if entry.number != count - 1:
            report.add(Verdict.INCOMPLETE, f"{origin}", f"action {count - 1} is missing")
            break
        frontier.append(leaf(entry.body))
        known = checkpoints.get(count)
        if known is not None and known.root == frontier.root():
            signed = count
        elif known is not None:
            report.add(Verdict.ALTERED, f"{origin}", f"action {entry.number} is not the one that was signed")
            break
    else:
        if signed < len(entries):
            report.add(Verdict.ALTERED, f"{origin}", f"actions {signed} to {len(entries) - 1} are not signed")
    if (sealed := max(checkpoints, default=0)) > len(entries):
        report.add(Verdict.INCOMPLETE, f"{origin}", f"{sealed} actions were signed; {len(entries)} are there")
    return list(_read(report, origin, entries[:signed]))


def _read(report: Report, origin: Origin, entries: Sequence[Entry]) -> list[tuple[int, Action]]:
    found: list[tuple[int, Action]] = []
    for entry in entries:
        try:
            found.append((entry.number, Action.parse(entry.body)))
        except ActionError as error:
            report.add(Verdict.ALTERED, f"{origin}", f"action {entry.number}: {error}")
    return found


LOCK: Final = 7_263_410_955
"""The advisory lock of the action log's writers."""

_ALL: Final = "SELECT number, body, note FROM audit_action ORDER BY number"

_ADD: Final = "INSERT INTO audit_action (number, body, note) VALUES ($1, $2, $3)"


async def read_entries(sql: Connection) -> list[Entry]:
    """Return all entries in order; there are few."""
    return [Entry(row["number"], row["body"], row["note"]) for row in await sql.fetch(_ALL)]


@dataclass
class ActionLog:
    """An installation's action log. `trusted` are the keys, by id, whose signatures count."""

    sql: Connection
    log_id: str
    trusted: Mapping[bytes, Verifier]
    witness: WitnessFile
    entries: list[Entry] = field(default_factory=list[Entry])
    actions: list[tuple[int, Action]] = field(default_factory=list[tuple[int, Action]])
    _unwitnessed: list[Entry] = field(default_factory=list[Entry])

    @property
    def origin(self) -> Origin:
        """The origin of this log."""
        return actions_origin(self.log_id)

    async def read(self) -> list[tuple[int, Action]]:
        """Return all actions with their numbers. Raises `HistoryError` if database and witness differ."""
        # The witness first: writers append to the database first, so its entries include all that the witness had.
        seen = self.witness.last().get(str(self.origin))
        return self._believe(await read_entries(self.sql), seen)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Hold the writers' lock in one transaction; recorded actions are appended to the witness after the commit.

        Entries that the table has lost are restored from the witness first. Raises `HistoryError`.
        """
        async with self.sql.transaction():
            await self.sql.execute("SET LOCAL statement_timeout = 0")
            await self.sql.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            await self.sql.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            entries = await read_entries(self.sql)
            seen = self.witness.last().get(str(self.origin))
            if seen is not None and seen.size > len(entries):
                entries = await self._restore(entries)
            self._believe(entries, seen)
            self._unwitnessed = entries[seen.size if seen is not None else 0 :]
            yield
        self.witness.append(
            WitnessEntry(str(self.origin), each.number + 1, each.note, each.body) for each in self._unwitnessed
        )

    async def record(self, signer: Signer, action: Action) -> int:
        """Sign and store an action in the transaction of `turn`; return its number."""
        body, number = action.to_body(), len(self.entries)
        frontier = frontier_of([*(entry.body for entry in self.entries), body])
        clock = read_clock()
        checkpoint = Checkpoint(
            origin=str(self.origin),
            size=frontier.size,
            root=frontier.root(),
            next_offset=frontier.size,
            previous=hash_note(self.entries[-1].note) if self.entries else "",
            time=action.at,
            clock=clock.source,
            clock_error=clock.error,
        )
        entry = Entry(number, body, signer.sign(checkpoint.to_text()))
        await self.sql.execute(_ADD, *entry)
        self.entries.append(entry)
        self.actions.append((number, action))
        self._unwitnessed.append(entry)
        return number

    async def _restore(self, entries: list[Entry]) -> list[Entry]:
        """Restore entries that the table has lost. Raises `HistoryError` where its others differ from the witness's."""
        # By size: two concurrent writers may both have appended the same entry to the witness.
        seen = {each.size: each for each in self.witness.read() if each.origin == str(self.origin)}
        whole = [Entry(size - 1, seen[size].body, seen[size].note) for size in sorted(seen)]
        if whole[: len(entries)] != entries:
            raise HistoryError(f"{self.origin}: the database's actions are not those that the witness has")
        lost = whole[len(entries) :]
        await self.sql.executemany(_ADD, lost)
        structlog.get_logger("retention").warning("lost actions are taken over from the witness", count=len(lost))
        return whole

    def _believe(self, entries: list[Entry], seen: WitnessEntry | None) -> list[tuple[int, Action]]:
        report, notes = Report(), [entry.note for entry in entries]
        found = read_notes(report, "database", notes, self.trusted).get(str(self.origin), {})
        check_chain(report, found)
        if seen is not None:
            found |= read_notes(report, "witness", [seen.note], self.trusted).get(str(self.origin), {})
        actions = check_actions(report, self.origin, entries, by_size(found))
        if report.findings:
            first = report.findings[0]
            raise HistoryError(f"{first.where}: {first.what}")
        self.entries, self.actions = entries, actions
        return actions


OWNER: Final = "retention"
"""The service whose database URL has a user that owns the tables: TRADESAGA_DATABASE_URL_RETENTION."""


def trusted_keys(settings: Settings) -> dict[bytes, Verifier]:
    """Return the trusted public keys by id. Raises `CommandError`."""
    return read_trusted([public_path(settings.audit_key_file())])


@asynccontextmanager
async def action_log(settings: Settings, trusted: Mapping[bytes, Verifier]) -> AsyncGenerator[ActionLog]:
    """Open the action log. Raises `CommandError`: exit 1 if it was altered, exit 5 if a server is unavailable."""
    service = OWNER if OWNER in settings.service_databases else SAGA_LOG
    url = settings.database_for(service)
    try:
        async with session(url, application_name="tradesaga audit retention") as sql:
            witness = WitnessFile(settings.audit_witness_file())
            yield ActionLog(sql, settings.audit_log_id, trusted, witness)
    except (HistoryError, NoteError) as error:
        do = "nothing was changed; `tradesaga audit verify` tells what else has been altered"
        raise CommandError("actions-altered", str(error), "audit log", do) from error
    except WitnessError as error:
        do = "see to it that the file can be read and written, and is the one that TRADESAGA_AUDIT_WITNESS names"
        raise CommandError("witness-invalid", str(error), "witness", do, ExitCode.UNAVAILABLE) from error
