# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
"""The records as Parquet, as another program reads them."""

import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from pyarrow import parquet

from tests.integration.consumers.audit.export import hands
from tests.integration.consumers.audit.export.rig import ExportRig
from tradesaga.consumers.audit.export import layout

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]


async def test_parquet_has_the_same_records(database_url: str, tmp_path: Path) -> None:
    """Column by column."""
    async with ExportRig.open(database_url, tmp_path) as rig:
        path, _ = await rig.export("whole")
    written = hands.read(path)
    rows = parquet.read_table(path / layout.PARQUET).to_pylist()
    assert [row["hash"].hex() for row in rows] == [line["hash"] for line in written]
    assert [row["value"].decode() for row in rows] == [line["value"] for line in written]
    for name in ("topic", "partition", "offset", "leaf", "saga_id", "seq", "event_type", "step", "headers"):
        assert [row[name] for row in rows] == [line[name] for line in written]
    assert [round(row["recorded"].timestamp() * 1000) for row in rows] == [line["recorded_ms"] for line in written]


async def test_without_pyarrow_an_export_is_whole_without_it(database_url: str, tmp_path: Path) -> None:
    """The folder says why there is none, and is proven all the same."""
    async with ExportRig.open(database_url, tmp_path) as rig:
        with patch.dict(sys.modules, {"pyarrow": None}):
            path, manifest = await rig.export("whole")
        assert rig.verify(path).findings == []
    assert layout.PARQUET not in {file.path for file in manifest.files}
    assert "pyarrow was not installed" in (path / layout.README).read_text()
