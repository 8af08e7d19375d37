"""Errors of servers and networks as one sentence for the user; stack traces go to a file."""

import asyncio
import errno
import os
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import asyncpg
from aiokafka.errors import KafkaConnectionError

from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.infra.registry.app_modules import app_error, is_theirs
from tradesaga.sagas.errors import DefinitionError

REFUSED_LOGINS = (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)
LOST_DATABASE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
_OF_A_NAME = frozenset({
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EROFS,
})  # fmt: skip
_NAME_SHOWN = 200
LOST_CONNECTION = (ConnectionError, asyncio.TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def describe(error: BaseException) -> CommandError:
    """Return the error that a command reports for any exception."""
    if isinstance(error, BaseExceptionGroup):
        return describe(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    if isinstance(error, CommandError):
        return error
    if isinstance(error, KafkaConnectionError | KafkaUnavailableError):
        return _unavailable("kafka-unavailable", "Kafka does not answer", error, "start it, or correct TRADESAGA_KAFKA")
    if isinstance(error, OSError) and error.filename is not None and error.errno in _OF_A_NAME:
        what = f"a file cannot be used: {error.strerror}"
        return CommandError("file", what, str(error.filename)[:_NAME_SHOWN], "name another one", ExitCode.USAGE)
    cause = error.__cause__ if error.__cause__ is not None else error
    for seen in (error, cause, getattr(error, "orig", None)):
        found = _of_database(seen)
        if found is not None:
            return found
    if isinstance(error, DefinitionError) or is_theirs(error):
        return app_error(error, "the module that defines it")
    return unexpected(error)


def unexpected(error: BaseException) -> CommandError:
    """Return an internal error, whose trace is appended to a log file."""
    log = _write_trace(error)
    first = (str(error).splitlines() or [""])[0]
    what = f"an unexpected {type(error).__name__} stopped the command{': ' if first else ''}{first}"
    return CommandError("unexpected", what, str(log), "report it with that file, or set TRADESAGA_DEBUG=1 to see more")


def _of_database(error: BaseException | None) -> CommandError | None:
    if isinstance(error, REFUSED_LOGINS):
        do = "correct the user or the password in TRADESAGA_DATABASE_URL"
        return _unavailable("database-login", "PostgreSQL refuses the login", error, do)
    if isinstance(error, LOST_DATABASE):
        do = "start it, or correct TRADESAGA_DATABASE_URL"
        return _unavailable("database-unavailable", "PostgreSQL is unavailable", error, do)
    if isinstance(error, LOST_CONNECTION):
        do = "look at `tradesaga status` and start what is down, or correct TRADESAGA_KAFKA or TRADESAGA_DATABASE_URL"
        return _unavailable("server-unavailable", "a server does not answer", error, do)
    return None


def _unavailable(code: str, what: str, error: BaseException, do: str) -> CommandError:
    where = (str(error).splitlines() or [""])[0] or type(error).__name__
    return unavailable(code, what, where, do)


def _write_trace(error: BaseException) -> Path:
    """Append the trace to the stack's log folder, or to the system's temporary one where there is no stack."""
    home = Path(os.environ.get("TRADESAGA_HOME") or ".tradesaga") / "logs"
    folder = home if home.is_dir() and os.access(home, os.W_OK) else Path(tempfile.gettempdir())
    log = folder / "tradesaga-errors.log"
    with log.open("a") as file:
        file.write(f"--- {datetime.now(UTC).isoformat()} pid {os.getpid()}\n")
        file.writelines(traceback.format_exception(error))
    return log.resolve()
