"""Counting COPYs: asyncpg's loggers of statements leave them out."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import asyncpg

_copy = asyncpg.Connection.copy_records_to_table


@contextmanager
def copies(note: Callable[[str], None]) -> Generator[None]:
    """Tell of each COPY of this process, by the table's name."""

    async def copy(self: Any, table_name: str, **named: Any) -> str:
        note(f"COPY {table_name}")
        return await _copy(self, table_name, **named)

    with patch.object(asyncpg.Connection, "copy_records_to_table", copy):
        yield
