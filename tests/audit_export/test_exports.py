"""Exports made of a real database: whole, of a time, or of some sagas; each is proven without the database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.audit_export.rig import ExportRig

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[ExportRig]:
    """Give a log and its exports."""
    async with ExportRig.open(database_url, tmp_path) as rig:
        yield rig


async def test_a_whole_export_is_believed(rig: ExportRig) -> None:
    """All records, all sagas."""
    path, manifest = await rig.export("whole")
    report = rig.verify(path)
    assert report.findings == []
    assert (manifest.records, manifest.sagas, report.rows) == (60, 12, 60)
