"""An audit log over some months of long ago, whose partitions can be retired."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

from tests.integration.consumers.audit.rig import STORY, AuditRig
from tradesaga.consumers.audit.log.action_log import Action, ActionKind, ActionLog
from tradesaga.consumers.audit.retention.drop import Evidence, drop
from tradesaga.consumers.audit.retention.legal_holds import Scope, describe_hold
from tradesaga.consumers.audit.retention.retire import RetireRequest, SegmentStatus, retire, survey
from tradesaga.consumers.saga_log import store
from tradesaga.infra.audit_log.schedule import parse_schedule
from tradesaga.infra.errors import CommandError
from tradesaga.schemas.messages.message import Event

MONTHS = ("20190101", "20190201", "20190301", "20190401")
_PARTITION = """
CREATE TABLE saga_event_{0} (LIKE saga_event INCLUDING ALL);
ALTER TABLE saga_event ATTACH PARTITION saga_event_{0} FOR VALUES FROM ('{0}') TO ('{1}');
CREATE TRIGGER saga_event_keep BEFORE TRUNCATE ON saga_event_{0} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def named(month: int) -> str:
    """Name the partition of a month of 2019."""
    return f"saga_event_2019{month:02}01"


class RetentionRig(AuditRig):
    """Records into the months January to March of 2019, which have partitions."""

    schedule = "5y"

    async def make_months(self) -> None:
        """Attach the partitions."""
        for start, end in pairwise(MONTHS):
            await self.sql.execute(_PARTITION.format(start, end))

    async def month(self, month: int, sagas: int = 3, story: Sequence[Event] = STORY) -> list[UUID]:
        """Record the stories of new sagas in a month, and seal."""
        self.at(month)
        ids = await self.record(sagas, story)
        await self.seal()
        return ids

    def at(self, month: int, day: int = 10, year: int = 2019) -> None:
        """Set the broker's clock."""
        self.now_ms = int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)

    async def go_on(self, ids: Sequence[UUID], story: Sequence[Event]) -> None:
        """Enter records, and the sagas' rows as well."""
        await super().go_on(ids, story)
        await store.write(self.sql, self.rules, [(1, self.known[saga_id]) for saga_id in ids])

    @property
    def log(self) -> ActionLog:
        """Open the log of actions anew."""
        trusted = {self.signer.verifier.id: self.signer.verifier}
        return ActionLog(self.sql, "test", trusted, self.witness)

    async def retire(self, *months: int, reason: str = "five years have passed") -> Action:
        """Retire months, or without any whatever is due first."""
        order = RetireRequest([named(month) for month in months], "ann", reason)
        return await retire(self.log, self.signer, parse_schedule(self.schedule), order, lambda _: None)

    async def why_not(self, *months: int) -> str:
        """Try to retire, and give why that is refused."""
        before = await self.sql.fetchval("SELECT count(*) FROM saga_event")
        refusal = ""
        with suppress(CommandError):
            try:
                await self.retire(*months)
            except CommandError as error:
                refusal = error.what
                raise
        assert refusal, "it was retired"
        assert await self.sql.fetchval("SELECT count(*) FROM saga_event") == before
        return refusal

    async def drop(self, name: str, evidence: Evidence | None = None) -> Action:
        """Drop what was retired."""
        return await drop(self.log, self.signer, name, {"operator": "ann", "reason": "no court asks"}, evidence)

    async def hold(self, scope: Scope, key: str, until: datetime | None = None) -> int:
        """Set a hold."""
        log = self.log
        async with log.turn():
            return await log.record(
                self.signer, Action(ActionKind.HOLD, "eve", "case 7", 1, describe_hold(scope, key, until))
            )

    async def release(self, number: int) -> None:
        """Release a hold."""
        log = self.log
        async with log.turn():
            await log.record(self.signer, Action(ActionKind.RELEASE, "eve", "settled", 2, {"hold": number}))

    async def looks(self) -> dict[str, SegmentStatus]:
        """Look at each partition, by its name."""
        log = self.log
        await log.read()
        found = await (await survey(log, parse_schedule(self.schedule))).all(self.sql)
        return {str(look.segment): look for look in found}
