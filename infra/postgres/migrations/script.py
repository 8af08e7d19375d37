"""Runs several statements given as one text, which a prepared statement cannot hold."""

from typing import Any

from alembic import op


def execute_script(statements: str) -> None:
    """Run the statements in the migration's transaction."""
    adapted: Any = op.get_bind().connection.dbapi_connection

    async def execute(session: Any) -> None:
        await session.execute(statements)

    adapted.run_async(execute)
