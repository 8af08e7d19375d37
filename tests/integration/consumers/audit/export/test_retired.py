"""Exports of a log whose oldest records were retired: what is left is proven, and who retired the rest is told."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.export import hands
from tests.integration.consumers.audit.export.rig import ExportRig
from tests.integration.consumers.audit.retention.rig import RetentionRig
from tests.integration.consumers.audit.rig import STORY
from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.manifest import Query
from tradesaga.consumers.audit.log.log_check import Verdict

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[ExportRig]:
    """Give a log of two months, of which the first was retired; three of its sagas go on into the second."""
    sql = await asyncpg.connect(database_url)
    try:
        log = RetentionRig(sql, tmp_path)
        await log.make_months()
        begun = await log.month(1, 3, STORY[:2])
        await log.month(1, 4)
        log.at(2)
        await log.go_on(begun, STORY[2:])
        await log.month(2, 3)
        for ids in (begun, list(log.known)):
            await log.go_on(ids, ())
        await log.retire(1)
        yield ExportRig(log, tmp_path)
    finally:
        await sql.close()


async def test_what_was_retired_stands_in_an_export_as_a_few_roots(rig: ExportRig) -> None:
    """Both verdicts hold, chains go on from where the retired records have left them, and the operator is named."""
    path, manifest = await rig.export("whole")
    assert (manifest.records, sum(log.retired for log in manifest.logs)) == (24, 26)
    report = rig.verify(path)
    assert report.findings == []
    assert [(each.operator, each.reason, each.records) for each in report.retired] == [
        ("ann", "five years have passed", 26)
    ]
    assert any("previous" in line for line in hands.read(path))


async def test_a_saga_that_began_before_is_proven_from_there(rig: ExportRig) -> None:
    """Its records from the third on."""
    path, _ = await rig.export("one", Query(ids=(str(next(iter(rig.log.known))),)))
    assert [line["seq"] for line in hands.read(path)] == [3, 4, 5]
    assert rig.verify(path).findings == []


async def test_nobody_retires_records_without_a_signed_action(rig: ExportRig) -> None:
    """An exporter who leaves the oldest records out as retired is asked who has retired them."""
    path, _ = await rig.export("whole")
    actions = path / layout.ACTIONS
    told = actions.read_bytes()
    for spoilt in (b"", told.replace(b"ann", b"bob"), b"{}\n"):
        actions.write_bytes(spoilt)
        hands.sign_again(path, rig.exporter)
        report = rig.verify(path)
        assert not report.holds(Verdict.INCOMPLETE)
        assert any("no signed action has retired them" in finding.what for finding in report.findings)
