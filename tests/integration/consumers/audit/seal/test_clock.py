"""What is known of the sealing machine's clock goes into the seals, and comes out of the verification."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.rig import AuditRig
from tradesaga.consumers.audit.verify.database import verify_database
from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.audit_log.clock_evidence import ClockEvidence, ClockTier, read_clock
from tradesaga.infra.audit_log.note import open_note

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[AuditRig]:
    """Give an empty audit log."""
    sql = await asyncpg.connect(database_url)
    yield AuditRig(sql, tmp_path)
    await sql.close()


async def test_seals_outside_the_tier_are_remarked_on(rig: AuditRig) -> None:
    """The clock's keeper and bound are signed with the roots; those beyond the tier are counted, and break nothing."""
    trusted = {rig.signer.verifier.id: rig.signer.verifier}
    readings = (ClockEvidence("chrony", 20_000_000), ClockEvidence("ptp", 80_000_000), ClockEvidence("kernel", -1))
    signed: list[int] = []
    for clock in (*readings, read_clock()):
        await rig.record(2)
        sealer = rig.sealer()
        await sealer.open(rig.sql)
        sealed = await sealer.seal(rig.sql, clock)
        found = [Checkpoint.parse(open_note(each.note, trusted)[0]) for each in sealed]
        assert {(each.clock, each.clock_error) for each in found} == {(clock.source, clock.error)}
        signed.append(len(found))

    async def verified(tier: str) -> list[str]:
        report = await verify_database(
            rig.sql, "test", trusted, [rig.witness], lambda _: None, tier=ClockTier.parse(tier)
        )
        assert report.findings == []
        return report.remarks

    (told,) = await verified("50 ms")
    count = signed[1] + signed[2] + (signed[3] if ClockTier.parse("50 ms").exceeded(read_clock().error) else 0)
    assert told.startswith(f"{count} checkpoints were signed while the clock was outside 50 ms")
    assert "80 ms at worst" in told
    assert await verified("off") == []
