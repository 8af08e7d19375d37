"""Many statements at once, which a migration may hold as one text; a prepared statement could not."""

from typing import Any

from alembic import op


def execute_script(statements: str) -> None:
    """Run the statements in the migration's transaction."""
    adapted: Any = op.get_bind().connection.dbapi_connection

    async def execute(session: Any) -> None:
        await session.execute(statements)

    adapted.run_async(execute)
