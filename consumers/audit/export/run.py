"""One export from beginning to end: what is asked for, written into a folder, counted, and signed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.exporter import Exporter
from tradesaga.consumers.audit.export.folder import FreshFolder
from tradesaga.consumers.audit.export.manifest import Manifest, Query, sign
from tradesaga.consumers.audit.export.orders import OrderSheet
from tradesaga.consumers.audit.export.parquet import ParquetFile
from tradesaga.consumers.audit.export.readme import write_readme
from tradesaga.consumers.audit.export.retired import RetiredRecords
from tradesaga.consumers.audit.export.source import Seals, Source
from tradesaga.consumers.audit.log.rows import snapshot
from tradesaga.infra.audit_log.note import Signer, Verifier
from tradesaga.infra.clock import format_time
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import Session
from tradesaga.infra.saga_queries import start_events
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.compatibility.contract import contracts_of
from tradesaga.schemas.topics import events_topic

_ALWAYS: Final = (layout.EVENTS, layout.SAGAS, layout.CHECKPOINTS, layout.PROOFS)


@dataclass(frozen=True)
class Maker:
    """Who makes exports: the key that signs them, the keys that have sealed, and the sagas that are known."""

    signer: Signer
    trusted: Mapping[bytes, Verifier]
    log_id: str
    sagas: Mapping[str, AnySaga]

    async def make(self, sql: Session, query: Query, folder: FreshFolder, advance: Callable[[int], None]) -> Manifest:
        """Write an export into a fresh folder, as the database is at one moment; it appears once it is whole.

        Raises `CommandError` where nothing is sealed, where the log does not fit its seal, and without space.
        """
        starts = start_events(self.sagas.values())
        columns = ParquetFile.open(folder.at(layout.PARQUET))
        try:
            for name in _ALWAYS:
                folder.file(name)
            orders = OrderSheet(folder.file(layout.ORDERS))
            orders.begin()
            async with snapshot(sql):
                retired = await RetiredRecords.read(sql, self.log_id, self.trusted)
                seals = Seals(self.trusted)
                exporter = Exporter(Source(sql, query, starts), folder, seals, retired, orders, columns, advance)
                never = await self._export(exporter, query)
            if columns is not None:
                columns.close()
                folder.adopt(layout.PARQUET)
        finally:
            if columns is not None:
                columns.abandon()
        return self._finish(exporter, query, never)

    async def _export(self, exporter: Exporter, query: Query) -> int:
        """Export all logs; give the number of records in logs that were never sealed."""
        topic = events_topic(query.saga) if query.saga is not None else None
        logs = await exporter.source.logs(topic)
        never = await exporter.source.never_sealed(topic)
        if not logs:
            do = "run `tradesaga run audit-sealer`, and try again in a second"
            raise CommandError("not-sealed", "nothing is sealed yet", topic or "audit log", do, ExitCode.REFUSED)
        for log in logs:
            await exporter.export_log(log)
        if not exporter.records:
            do = "see what there is with `tradesaga list`; what is not sealed yet comes within a second"
            raise CommandError("nothing-found", "no sealed record fits", "the query", do, ExitCode.NOT_FOUND)
        return never

    def _finish(self, exporter: Exporter, query: Query, never: int) -> Manifest:
        """Write what belongs to the records, and sign it all."""
        folder = exporter.folder
        types = [each for saga in self.sagas.values() for each in saga.message_types.items()]
        for ce_type, contract in sorted(contracts_of(types).items()):
            if ce_type in exporter.types:
                folder.write(f"{layout.SCHEMAS}/{ce_type}.json", layout.write_line(contract.published()))
        if any(log.retired for log in exporter.logs):
            folder.write(layout.ACTIONS, exporter.retired.lines())
        keys = {str(key) for key in self.trusted.values()}
        folder.write(layout.KEYS, "".join(f"{key}\n" for key in sorted(keys | {str(self.signer.verifier)})).encode())
        draft = Manifest(
            log_id=self.log_id,
            made_at=format_time(time.time_ns()),
            software=f"tradesaga {version('tradesaga')}",
            query=query,
            records=exporter.records,
            sagas=exporter.sagas,
            orders=exporter.orders.written,
            not_yet_sealed=never + sum(log.not_yet_sealed for log in exporter.logs),
            logs=tuple(exporter.logs),
            types=dict(sorted(exporter.types.items())),
            definitions={name: saga.version for name, saga in sorted(self.sagas.items())},
            clock=exporter.seals.clock(),
            seal_keys=tuple(sorted(keys)),
            export_key=str(self.signer.verifier),
            files=(),
        )
        folder.write(layout.README, write_readme(draft, parquet=exporter.further is not None).encode())
        manifest = draft.model_copy(update={"files": folder.close_files()})
        text = manifest.to_bytes()
        folder.write(layout.MANIFEST, text)
        folder.write(layout.SIGNATURE, sign(self.signer, text).encode())
        folder.finish()
        return manifest
