"""Drops retired partitions: with a verified export as evidence, or without one by an operator's decision."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.folder import ExportFolder
from tradesaga.consumers.audit.export.layout import FormatError
from tradesaga.consumers.audit.export.manifest import Manifest
from tradesaga.consumers.audit.export.verify import Keys, verify_export
from tradesaga.consumers.audit.log.action_log import Action, ActionKind, ActionLog
from tradesaga.consumers.audit.log.retired_ranges import RetiredRange, retired_ranges_of
from tradesaga.consumers.audit.retention.legal_holds import ActiveHolds, read_holds
from tradesaga.consumers.audit.retention.segments import Part, Segment
from tradesaga.infra.audit_log.note import Signer, Verifier
from tradesaga.infra.errors import CommandError, ExitCode

_THERE: Final = "SELECT to_regclass(format('%I', $1::text)) IS NOT NULL"


class Exported(NamedTuple):
    """A range of offsets of one log that an export contains without gaps, `last` included."""

    topic: str
    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for a drop: a verified export, or none."""

    manifest: str = ""
    path: str = ""
    logs: Sequence[Exported] = ()

    def lacks(self, ranges: Sequence[RetiredRange]) -> list[str]:
        """Return the retired records that the export does not contain."""
        held = {(each.topic, each.partition): each for each in self.logs}
        found: list[str] = []
        for range_ in ranges:
            log = held.get((range_.topic, range_.partition))
            if log is None or log.first > range_.first or log.last < range_.next_offset - 1:
                found.append(
                    f"offsets {range_.first} to {range_.next_offset - 1} of {range_.topic}[{range_.partition}]"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the form in an action's body."""
        return {"export": self.path, "manifest": self.manifest} if self.manifest else {"export": None}


class RetiredTable(NamedTuple):
    """A retired table that has not been dropped."""

    number: int
    name: str
    table: str
    action: Action


def waiting(actions: Sequence[tuple[int, Action]]) -> list[RetiredTable]:
    """Return the retired tables that have not been dropped."""
    dropped = {action.detail["table"] for _, action in actions if action.kind is ActionKind.DROP}
    return [
        RetiredTable(number, told["name"], told["table"], action)
        for number, action in actions
        if action.kind is ActionKind.RETIRE
        for told in action.detail["partitions"]
        if told["table"] not in dropped
    ]


async def drop(log: ActionLog, signer: Signer, name: str, said: Mapping[str, str], evidence: Evidence | None) -> Action:
    """Drop a retired table by its partition's name or its own; `said` has the operator and the reason.

    `evidence` is None to drop without an export. Raises `CommandError`: exit 3 if no such table is retired, exit 4 if a
    hold or an incomplete export forbids it; and `HistoryError`.
    """
    async with log.turn():
        found = next((each for each in waiting(log.actions) if name in {each.name, each.table}), None)
        if found is None or not await log.sql.fetchval(_THERE, found.table):
            do = "retire it first, with the same command without --drop"
            what = f"no retired partition {name} is there"
            raise CommandError("partition-not-retired", what, "--partition", do, ExitCode.NOT_FOUND)
        await _refuse_held(log, found)
        if evidence is not None and (lacking := evidence.lacks(retired_ranges_of(found.action))):
            do = "export these records, or drop them without an export and say why"
            what = f"the export does not hold {'; '.join(lacking)}"
            raise CommandError("export-incomplete", what, evidence.path, do, ExitCode.REFUSED)
        shown = (evidence or Evidence()).to_json()
        detail = {"table": found.table, "name": found.name, "retired": found.number, **shown}
        action = Action(ActionKind.DROP, said["operator"], said["reason"], time.time_ns(), detail)
        await log.record(signer, action)
        await log.sql.execute(f'DROP TABLE "{found.table}"')
    return action


async def _refuse_held(log: ActionLog, found: RetiredTable) -> None:
    """Raise `CommandError` if a hold has been set on the records since they were retired."""
    segment = Segment([Part(found.table, f'"{found.table}"', None, None)])
    held = await ActiveHolds.find(log.sql, read_holds(log.actions))
    why = await held.over(log.sql, segment) or await held.in_doubt(log.sql, segment)
    if why:
        do = "nothing was changed; release the hold first"
        raise CommandError("held", "; ".join(why), found.table, do, ExitCode.REFUSED)


def read_evidence(path: Path, log_id: str, trusted: Mapping[bytes, Verifier]) -> Evidence:
    """Verify an export and return the ranges of this installation's logs that it contains.

    Raises `CommandError`: exit 3 if there is no export, exit 4 if it does not verify or is of another installation.
    """
    report = verify_export(path, Keys(trusted, {}), [], lambda _done, _of: None)
    if report.findings:
        first = report.findings[0]
        raise _refused(path, f"it does not verify: {first.where}: {first.what}")
    try:
        text = ExportFolder(path).read(layout.MANIFEST)
        manifest = Manifest.parse(text)
    except FormatError as error:
        raise _refused(path, f"it does not verify: {error}") from error
    if manifest.log_id != log_id:
        raise _refused(path, f"it is of {manifest.log_id}, not of {log_id}")
    if not manifest.query.whole:
        raise _refused(path, "it holds some sagas only; export by time, or all")
    logs = [
        Exported(log.topic, log.partition, log.first_offset, log.last_offset)
        for log in manifest.logs
        if not log.gaps and not log.further_gaps
    ]
    return Evidence(hashlib.sha256(text).hexdigest(), str(path), logs)


def _refused(path: Path, what: str) -> CommandError:
    do = "make another with `tradesaga audit export`, before the partition is retired"
    return CommandError(
        "export-refused", f"the export is not sufficient evidence: {what}", str(path), do, ExitCode.REFUSED
    )
