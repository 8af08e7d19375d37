"""Any history of records, seals, retirements and verifications: green while nobody cheats, red once somebody does."""

import random
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from tests.integration.consumers.audit.retention.rig import RetentionRig, named
from tests.integration.consumers.audit.rig import STORY
from tradesaga.consumers.audit.log.log_check import Verdict
from tradesaga.infra.errors import CommandError

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]


@pytest.mark.parametrize("seed", range(4))
async def test_any_history_verifies_until_a_partition_goes_by_hand(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    """Sagas over months, sealed now and then, retired wherever that is allowed, one of their last tables dropped."""
    draw = random.Random(seed)
    sql = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    rig = RetentionRig(sql, tmp_path)
    try:
        await rig.make_months()
        open_sagas: dict[UUID, int] = {}
        retired = 0
        for month in (1, 2, 3):
            await live(rig, draw, month, open_sagas)
            retired += await tried(rig, month)
            await rig.seal()
            assert (await rig.verify()).findings == []
        for saga_id, told in open_sagas.items():
            await rig.go_on([saga_id], STORY[told:])
        await rig.seal()
        for month in (1, 2):
            retired += await tried(rig, month)
        report = await rig.verify(with_witness=bool(seed % 2))
        assert (report.findings, report.unsealed) == ([], 0)
        assert len(report.retired) == retired >= 2
        await rig.sql.execute(f"DROP TABLE {named(3)}")
        assert not (await rig.verify()).holds(Verdict.INCOMPLETE)
    finally:
        await sql.close()


async def live(rig: RetentionRig, draw: random.Random, month: int, open_sagas: dict[UUID, int]) -> None:
    """Start sagas, have half of those that are open go on, and seal now and then; `open_sagas` counts their records."""
    for _ in range(draw.randint(3, 5)):
        rig.at(month, day=draw.randint(1, 27))
        open_sagas |= dict.fromkeys(await rig.record(draw.randint(1, 4), STORY[:1]), 1)
        for saga_id in draw.sample(sorted(open_sagas), len(open_sagas) // 2):
            told = open_sagas.pop(saga_id)
            until = len(STORY) if month == 3 else draw.randint(told, len(STORY))
            await rig.go_on([saga_id], STORY[told:until])
            open_sagas |= {saga_id: until} if until < len(STORY) else {}
        if draw.random() < 0.7:
            await rig.seal()


async def tried(rig: RetentionRig, month: int) -> int:
    """Retire a month if that is allowed; says whether it was."""
    if not await rig.sql.fetchval("SELECT to_regclass($1) IS NOT NULL", named(month)):
        return 0
    try:
        await rig.retire(month)
    except CommandError:
        return 0
    return 1
