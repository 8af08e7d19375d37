"""Connections to PostgreSQL: the pool of a process, a command's session, and errors as commands report them."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import asyncpg

from tradesaga.infra.errors import CommandError, ExitCode, unavailable

TABLE: Final = "tradesaga_schema"

FOLDER: Final = Path(__file__).parent / "migrations"

PARAMETER: Final = "tradesaga.schema"
"""The session parameter that carries the version known to the program; triggers read it."""


@cache
def known_version() -> str:
    """Return the version that this program was written for, such as `0007`."""
    return max(file.name[:4] for file in (FOLDER / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))


if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool = asyncpg.Pool[asyncpg.Record]
    Session = asyncpg.Connection[asyncpg.Record]
    Connection = Session | PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Session = Connection = asyncpg.Connection

SETTING = "TRADESAGA_DATABASE_URL"
DATABASE_ERRORS = (
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError,
)  # fmt: skip
"""All errors of PostgreSQL and its connection; `InternalClientError` reports a session that ended while idle."""

CONNECT_SECONDS: Final = 10.0

SESSION: Final = {
    # A stopped process must not keep its row locks: the server ends its session.
    "idle_in_transaction_session_timeout": "8s",
    "lock_timeout": "3s",
    "statement_timeout": "15s",
    "synchronous_commit": "on",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",
    # Compiling a short statement costs more than running it.
    "jit": "off",
    "timezone": "UTC",
}


async def open_pool(url: str, *, min_size: int = 1, max_size: int = 4, application_name: str = "tradesaga") -> Pool:
    """Open a pool whose sessions carry server-side time limits.

    Raises `CommandError`: exit 5 when the server does not answer or its schema is older than this program, exit 4 when
    the schema is a later one.
    """
    with explained_errors(url):
        pool = await asyncpg.create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            timeout=CONNECT_SECONDS,
            server_settings=_server_settings(application_name),
        )
        try:
            async with pool.acquire() as sql:
                await _check_version(sql, locate(url))
        except BaseException:
            await pool.close()
            raise
        return pool


@asynccontextmanager
async def session(url: str, *, application_name: str = "tradesaga") -> AsyncGenerator[Session]:
    """Open a session for a command and close it. Raises `CommandError` as `open_pool` does."""
    with explained_errors(url):
        connection = await asyncpg.connect(
            url, timeout=CONNECT_SECONDS, server_settings=_server_settings(application_name)
        )
        try:
            await _check_version(connection, locate(url))
            yield connection
        finally:
            await connection.close(timeout=CONNECT_SECONDS)


def _server_settings(application_name: str) -> dict[str, str]:
    return {**SESSION, "application_name": application_name, PARAMETER: known_version()}


@contextmanager
def explained_errors(url: str) -> Generator[None]:
    """Raise `CommandError` for errors of the server and of its address, as `explain` describes them."""
    try:
        yield
    except (*DATABASE_ERRORS, ValueError) as error:
        known = explain(error, url)
        if known is None:
            raise
        raise known from error


async def _check_version(sql: Connection, where: str) -> None:
    """Raise `CommandError` for a schema of another version: exit 5 if older or missing, exit 4 if later.

    `where` names the server and database without a password.
    """
    try:
        found = await sql.fetchval(f"SELECT version_num FROM {TABLE}")
    except asyncpg.UndefinedTableError:
        found = None
    if found == known_version():
        return
    if found is None or found < known_version():
        what = f"the schema is at version {found or 'none of ours'}, and this program needs {known_version()}"
        raise unavailable("database-schema", what, where, "stop the services, then run `tradesaga migrate`")
    what = f"the schema is at version {found}, later than this program's {known_version()}"
    do = "run the release that made it, or restore the backup from before the upgrade"
    raise CommandError("database-schema-later", what, where, do, ExitCode.REFUSED)


def explain(error: BaseException, url: str) -> CommandError | None:
    """Return what is wrong with the server or its address, None for any other error."""
    if isinstance(error, asyncpg.PostgresError):
        return _explain_answer(error, locate(url))
    if isinstance(error, asyncpg.ClientConfigurationError) or (isinstance(error, ValueError) and not _is_url(url)):
        return unavailable(
            "database-url",
            f"the database URL cannot be used: {error}",
            SETTING,
            "write it as postgresql://user:password@host:port/database",
        )
    if isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return _unreachable(error, locate(url))
    return None


def _explain_answer(error: asyncpg.PostgresError, where: str) -> CommandError | None:
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError():
            what, do = "PostgreSQL refused the user or password", f"correct them in {SETTING}"
            return unavailable("database-credentials", what, where, do)
        case asyncpg.InvalidCatalogNameError():
            what, do = "the server has no such database", f"create it, or correct its name in {SETTING}"
            return unavailable("database-missing", what, where, do)
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            what, do = f"the schema is not up to date: {error}", "run `tradesaga migrate`"
            return unavailable("database-schema", what, where, do)
        case asyncpg.TooManyConnectionsError():
            what, do = "PostgreSQL has no connection left", "raise its max_connections, or run fewer processes"
            return unavailable("database-full", what, where, do)
        case asyncpg.InsufficientPrivilegeError():
            what, do = f"the user may not do this: {error}", "use a user that owns the tables, or grant it the right"
            return CommandError("database-privilege", what, where, do, ExitCode.REFUSED)
        case asyncpg.PostgresConnectionError() | asyncpg.OperatorInterventionError() | asyncpg.LockNotAvailableError():
            return _unreachable(error, where)
        case _:
            return None


def _unreachable(error: BaseException, where: str) -> CommandError:
    what = f"PostgreSQL cannot be reached: {error or type(error).__name__}"
    return unavailable("database-unavailable", what, where, f"start it (`tradesaga up`), or correct {SETTING}")


def locate(url: str) -> str:
    """Return the server and database of a URL, without credentials."""
    if not _is_url(url):
        return SETTING
    parts = urlsplit(url)
    return f"PostgreSQL {parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"postgresql", "postgres"}
