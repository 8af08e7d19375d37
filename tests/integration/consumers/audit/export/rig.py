"""An audit log with sagas' rows, and exports of it that tests may spoil as they like."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from tests.integration.consumers.audit.rig import STORY, TOPIC, AuditRig
from tests.sagas import RECORDED_MS, OrderAsked
from tradesaga.consumers.audit.export.command import Maker
from tradesaga.consumers.audit.export.folder import FreshFolder
from tradesaga.consumers.audit.export.manifest import Manifest, Query
from tradesaga.consumers.audit.export.verify import Keys, verify_export
from tradesaga.consumers.audit.log.log_check import Report
from tradesaga.consumers.saga_log import store
from tradesaga.consumers.saga_log.chain import FORMAT
from tradesaga.consumers.services.order_records import ORDER_RECORDS
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.kafka.codec import Record
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.messages.message import Event

EVERYTHING = Query()


@dataclass
class ExportRig:
    """A log of twelve sagas, sealed twice, the exports' own key, and a folder for exports."""

    log: AuditRig
    folder: Path
    exporter: Signer = field(default_factory=lambda: Signer.generate("desk/export"))

    @classmethod
    @asynccontextmanager
    async def open(cls, database_url: str, folder: Path, form: int = FORMAT) -> AsyncGenerator["ExportRig"]:
        """Fill a fresh database, with hashes of a format."""
        sql = await asyncpg.connect(database_url)
        try:
            rig = cls(AuditRig(sql, folder, form=form), folder)
            await rig.record(6)
            await rig.record(6, [OrderAsked(idempotency_key="k", account="B", symbol="GBP/USD"), *STORY[1:]])
            yield rig
        finally:
            await sql.close()

    @property
    def keys(self) -> Keys:
        """Give the keys that an examiner trusts."""
        sealer, exporter = self.log.signer.verifier, self.exporter.verifier
        return Keys({sealer.id: sealer}, {exporter.id: exporter})

    async def record(self, sagas: int, story: Sequence[Event] = STORY, *, seal: bool = True) -> list[UUID]:
        """Enter sagas with their rows, and seal."""
        ids = await self.log.record(sagas, story)
        await store.write(self.log.sql, self.log.rules, [(1, self.log.known[saga_id]) for saga_id in ids])
        if seal:
            await self.log.seal()
        return ids

    async def enter(self, saga_id: UUID, value: bytes, headers: Sequence[Header]) -> None:
        """Enter one record of a saga, whatever it holds, with the saga's row."""
        partition = self.log.known[saga_id].home
        offset = self.log.ends[partition]
        record = Record(TOPIC, partition, offset, RECORDED_MS + offset, str(saga_id).encode(), value, headers)
        await self.log.enter(record)
        await store.write(self.log.sql, self.log.rules, [(1, self.log.known[saga_id])])

    async def export(self, name: str, query: Query = EVERYTHING) -> tuple[Path, Manifest]:
        """Make an export."""
        sealer = self.log.signer.verifier
        saga = self.log.rules.saga
        maker = Maker(self.exporter, {sealer.id: sealer}, "test", {saga.name: saga}, {"trade": ORDER_RECORDS})
        path = self.folder / name
        with FreshFolder(path) as folder:
            return path, await maker.make(self.log.sql, query, folder, lambda _: None)

    def verify(self, path: Path) -> Report:
        """Verify an export with the trusted keys."""
        return verify_export(path, self.keys, [], lambda _, __: None)
