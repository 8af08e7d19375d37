"""Retiring the oldest part of the audit log: whole partitions, never rows, and a signed tombstone in their place."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tradesaga.consumers.audit.retention.action_log import ActionLog
from tradesaga.consumers.audit.retention.actions import Action, ActionKind
from tradesaga.consumers.audit.retention.legal_holds import read_holds
from tradesaga.consumers.audit.retention.retired_ranges import RetiredRange, RetiredRanges
from tradesaga.consumers.audit.retention.segments import DEFAULT, Part, Segment
from tradesaga.consumers.audit.retention.survey import SegmentStatus, Survey
from tradesaga.consumers.audit.retention.verify_segment import SegmentVerifier
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.schedule import Schedule
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Connection

_HEADS: Final = """
INSERT INTO audit_retired_head (topic, partition, saga_id, seq, hash)
SELECT DISTINCT ON (topic, partition, saga_id) topic, partition, saga_id, seq, hash FROM {rows} e
WHERE seq IS NOT NULL AND saga_id IS NOT NULL ORDER BY topic, partition, saga_id, seq DESC
ON CONFLICT (topic, partition, saga_id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash
"""
# A table that is detached loses what it has inherited: what was retired is no more to be changed than before.
_DETACH: Final = """
ALTER TABLE saga_event DETACH PARTITION {old};
ALTER TABLE {old} RENAME TO {new};
CREATE TRIGGER saga_event_append_only BEFORE UPDATE OR DELETE ON {new} FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""
_NEW_DEFAULT: Final = f"""
CREATE TABLE {DEFAULT} (LIKE saga_event INCLUDING ALL);
ALTER TABLE saga_event ATTACH PARTITION {DEFAULT} DEFAULT;
CREATE TRIGGER saga_event_keep BEFORE TRUNCATE ON {DEFAULT} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


@dataclass(frozen=True, slots=True)
class RetireRequest:
    """Who wants what retired, and why; without names it is the oldest partition with records that may go."""

    names: Sequence[str]
    operator: str
    reason: str


async def survey(log: ActionLog, schedule: Schedule) -> Survey:
    """Read what decides on retiring. Raises `HistoryError` where the log of actions cannot be believed."""
    return await Survey.begin(log.sql, schedule, read_holds(log.actions))


async def retire(
    log: ActionLog, signer: Signer, schedule: Schedule, order: RetireRequest, progress: Callable[[int], None]
) -> Action:
    """Detach partitions and sign what is left of them; the tables stay, under other names, until they are dropped.

    Raises `CommandError` (exit 3 for an unknown partition, exit 4 with all that forbids it) and `HistoryError`.
    """
    async with log.turn():
        # Nobody adds to what is being read from here on, and no partition goes or comes.
        await log.sql.execute("LOCK TABLE saga_event IN ACCESS SHARE MODE")
        segment = Segment(await _choose(log.sql, await survey(log, schedule), order.names))
        await log.sql.execute(f"LOCK TABLE {', '.join(part.quoted for part in segment.parts)} IN SHARE MODE")
        survey_ = await survey(log, schedule)
        look = await survey_.look(log.sql, segment)
        _refuse(segment, look.why_not)
        cut = SegmentVerifier(log.sql, log.log_id, log.trusted, RetiredRanges.read(log.actions), survey_.held, progress)
        ranges, why_not = await cut.verify(segment, look.extents)
        _refuse(segment, why_not)
        action = Action(ActionKind.RETIRE, order.operator, order.reason, time.time_ns(), _detail(log, look, ranges))
        await log.sql.execute(_HEADS.format(rows=segment.rows))
        await log.record(signer, action)
        for told in action.detail["partitions"]:
            await _detach(log.sql, told["name"], told["table"])
    return action


async def _choose(sql: Connection, survey_: Survey, names: Sequence[str]) -> list[Part]:
    parts = list(survey_.parts)
    if not names:
        for part in parts:
            look = await survey_.look(sql, Segment([part]))
            if look.records and not look.why_not:
                return [part]
        do = "see why not with `tradesaga audit retention`"
        raise CommandError("nothing-due", "no partition may be retired now", "audit log", do, ExitCode.REFUSED)
    known = {part.name: part for part in parts}
    if unknown := set(names) - known.keys():
        what = f"the audit log has no partition {', '.join(sorted(unknown))}"
        do = "see which there are with `tradesaga audit retention`"
        raise CommandError("partition-unknown", what, "--partition", do, ExitCode.NOT_FOUND)
    return [part for part in parts if part.name in set(names)]


def _refuse(segment: Segment, why_not: Sequence[str]) -> None:
    if why_not:
        do = "nothing was changed; settle that first"
        raise CommandError("not-retired", "; ".join(why_not), str(segment), do, ExitCode.REFUSED)


def _detail(log: ActionLog, look: SegmentStatus, ranges: Sequence[RetiredRange]) -> dict[str, Any]:
    number = len(log.entries)
    partitions = [
        {
            "name": part.name,
            "table": f"retired_{number}_{part.name}",
            "from": part.start.isoformat() if part.start else None,
            "to": part.end.isoformat() if part.end else None,
        }
        for part in look.segment.parts
    ]
    return {"partitions": partitions, "bytes": look.size, "logs": [range_.to_json() for range_ in ranges]}


async def _detach(sql: Connection, name: str, table: str) -> None:
    old, new = (f'"{each}"' for each in (name, table))
    await sql.execute(_DETACH.format(old=old, new=new))
    if name == DEFAULT:
        await sql.execute(_NEW_DEFAULT)
