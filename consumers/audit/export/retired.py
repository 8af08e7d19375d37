"""Retired records in exports: the signed actions that retired them, and their check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradesaga.consumers.audit.export.layout import FormatError, read_line, write_line
from tradesaga.consumers.audit.export.manifest import Log, Manifest
from tradesaga.consumers.audit.log.action_log import Action, Entry, actions_origin, check_actions, read_entries
from tradesaga.consumers.audit.log.log_check import Report, Retired, Verdict, by_size, read_notes
from tradesaga.consumers.audit.log.retired_ranges import RetiredRanges
from tradesaga.infra.audit_log.checkpoint import Origin
from tradesaga.infra.audit_log.note import Verifier
from tradesaga.infra.errors import CommandError
from tradesaga.infra.postgres.database import Session

_MEMBERS = ("number", "body", "note")


@dataclass(frozen=True)
class RetiredRecords:
    """The retired ranges of a database and the action log."""

    entries: Sequence[Entry]
    ranges: RetiredRanges

    @classmethod
    async def read(cls, sql: Session, log_id: str, trusted: Mapping[bytes, Verifier]) -> "RetiredRecords":
        """Read the action log. Raises `CommandError` if it is not what was signed."""
        entries, report = await read_entries(sql), Report()
        actions = check_entries(report, log_id, entries, trusted)
        ranges = RetiredRanges.believe(report, actions_origin(log_id), actions)
        if report.findings:
            found = report.findings[0]
            do = "see what is wrong with `tradesaga audit verify`"
            raise CommandError("audit-altered", found.what, found.where, do)
        return cls(entries, ranges)

    def lines(self) -> bytes:
        """Return the actions as lines of an export."""
        return b"".join(write_line(entry._asdict()) for entry in self.entries)


def check_entries(
    report: Report, log_id: str, entries: Sequence[Entry], trusted: Mapping[bytes, Verifier]
) -> list[tuple[int, Action]]:
    """Return the actions that a trusted key has signed, with their numbers; report others."""
    origin = actions_origin(log_id)
    notes = read_notes(report, str(origin), [entry.note for entry in entries], trusted).get(str(origin), {})
    return check_actions(report, origin, entries, by_size(notes))


def read_entry(text: bytes) -> Entry:
    """Parse an action of an export. Raises `FormatError`."""
    told: dict[str, Any] = read_line(text)
    if (
        tuple(told) != _MEMBERS
        or type(told["number"]) is not int
        or not all(type(told[name]) is str for name in ("body", "note"))
    ):
        raise FormatError("the line is not an action")
    return Entry(*told.values())


def check_retired(
    report: Report, manifest: Manifest, entries: Sequence[Entry], trusted: Mapping[bytes, Verifier]
) -> None:
    """Check that signed actions retired the records that an export leaves out as retired, and report these actions."""
    actions = check_entries(report, manifest.log_id, entries, trusted)
    ranges = RetiredRanges.believe(report, actions_origin(manifest.log_id), actions)
    for log in manifest.logs:
        if log.retired and not _is_retired(ranges, log):
            what = f"its first {log.retired} records are said to be retired, and no signed action has retired them"
            report.add(Verdict.INCOMPLETE, log.origin, what)
    for number, action in ranges.actions.items():
        cut = [range_ for found in ranges.ranges.values() for by, range_ in found if by == number]
        offsets = {str(Origin(manifest.log_id, range_.topic, range_.partition)): range_.next_offset for range_ in cut}
        records = sum(range_.records for range_ in cut)
        report.retired.append(Retired(number, action.at, action.operator, action.reason, records, offsets))


def _is_retired(ranges: RetiredRanges, log: Log) -> bool:
    known = ranges.ranges.get((log.topic, log.partition), ())
    return any(range_.frontier.size == log.retired for _, range_ in known)
