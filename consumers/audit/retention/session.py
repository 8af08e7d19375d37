"""What commands of retention need at hand: the log of actions, the keys, and errors in a person's words."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from tradesaga.consumers.audit.retention.action_log import ActionLog
from tradesaga.consumers.audit.seal.partition_log import HistoryError
from tradesaga.infra.audit_log.keyring import public_path, read_trusted
from tradesaga.infra.audit_log.note import NoteError, Verifier
from tradesaga.infra.audit_log.witness import WitnessError, WitnessFile
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.postgres.database import session
from tradesaga.infra.settings import SAGA_LOG, Settings

OWNER: Final = "retention"
"""Names the database URL of a user that owns the tables: TRADESAGA_DATABASE_URL_RETENTION."""


def trusted_keys(settings: Settings) -> dict[bytes, Verifier]:
    """Read the keys that may have signed; raises `CommandError`."""
    return read_trusted([public_path(settings.audit_key_file())])


@asynccontextmanager
async def action_log(settings: Settings, trusted: Mapping[bytes, Verifier]) -> AsyncGenerator[ActionLog]:
    """Open the log of actions. Raises `CommandError`: exit 1 where it cannot be believed, exit 5 without servers."""
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
