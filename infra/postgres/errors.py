"""Explains errors of PostgreSQL to the person who runs a command."""

from urllib.parse import urlsplit

import asyncpg

from tradesaga.infra.errors import CommandError, ExitCode, unavailable

SETTING = "TRADESAGA_DATABASE_URL"
DATABASE_ERRORS = (
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError,
)  # fmt: skip
"""All errors of PostgreSQL and its connection; `InternalClientError` reports a session that ended while idle."""


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
