"""Whoever rewrites the audit log is found out, whatever they recompute; the clean log is believed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.rig import TOPIC, AuditRig
from tradesaga.consumers.audit.log.checkpoints import HistoryError, take_turn
from tradesaga.consumers.audit.log.log_check import Verdict
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN
from tradesaga.infra.audit_log.note import NoteError, Signer
from tradesaga.infra.clock import format_time

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]

Attack = Callable[[AuditRig, list[UUID]], Awaitable[None]]
ROW = '(topic, partition, "offset") = ($1, $2, $3)'


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[AuditRig]:
    """Give an audit log of twelve sagas, sealed twice."""
    sql = await asyncpg.connect(database_url)
    rig = AuditRig(sql, tmp_path)
    yield rig
    await sql.close()


async def filled(rig: AuditRig) -> list[UUID]:
    """Record and seal, twice."""
    sagas: list[UUID] = []
    for _ in range(2):
        sagas += await rig.record(6)
        assert await rig.seal() > 0
    return sagas


def place(row: asyncpg.Record) -> tuple[str, int, int]:
    """Give where a row is."""
    return row["topic"], row["partition"], row["offset"]


async def flip_a_byte(rig: AuditRig, sagas: list[UUID]) -> None:
    """Change one byte of one payload, and nothing else."""
    row = (await rig.rows(sagas[0]))[0]
    await rig.attack(f"UPDATE saga_event SET value = set_byte(value, 3, 1) WHERE {ROW}", *place(row))


async def rewrite_a_chain(rig: AuditRig, sagas: list[UUID]) -> None:
    """Change a payload and make every hash fit again."""
    await flip_a_byte(rig, sagas)
    await rig.recompute()


async def remove_a_row(rig: AuditRig, sagas: list[UUID]) -> None:
    """Take one record out."""
    row = (await rig.rows(sagas[0]))[2]
    await rig.attack(f"DELETE FROM saga_event WHERE {ROW}", *place(row))


async def remove_a_row_and_close_the_gap(rig: AuditRig, sagas: list[UUID]) -> None:
    """Take one record out, count its saga's and its log's others anew, and make every hash fit."""
    row = (await rig.rows(sagas[0]))[2]
    await remove_a_row(rig, sagas)
    await rig.attack("UPDATE saga_event SET seq = seq - 1 WHERE saga_id = $1 AND seq > $2", sagas[0], row["seq"])
    await close_gaps(rig, row["partition"])


async def close_gaps(rig: AuditRig, partition: int) -> None:
    """Have a log's offsets follow each other again, and make every hash fit."""
    await rig.attack(
        'UPDATE saga_event e SET "offset" = n.number FROM (SELECT "offset", row_number() OVER (ORDER BY "offset") - 1'
        ' AS number FROM saga_event WHERE partition = $1) n WHERE partition = $1 AND e."offset" = n."offset"',
        partition,
    )
    await rig.recompute()


async def cut_the_tail(rig: AuditRig, sagas: list[UUID]) -> None:
    """Take away the last records of a log, and the checkpoints and the edge that tell of them."""
    row = (await rig.rows(sagas[-1]))[-1]
    await rig.attack('DELETE FROM saga_event WHERE topic = $1 AND partition = $2 AND "offset" >= $3', *place(row))
    await rig.attack("DELETE FROM audit_checkpoint WHERE partition = $1 AND size > $2", *place(row)[1:])
    await rig.attack("DELETE FROM audit_edge WHERE partition = $1", row["partition"])


async def remove_a_saga(rig: AuditRig, sagas: list[UUID]) -> None:
    """Take a whole saga out, close the gaps it leaves, and make every hash fit."""
    partition = (await rig.rows(sagas[0]))[0]["partition"]
    await rig.attack("DELETE FROM saga_event WHERE saga_id = $1", sagas[0])
    await close_gaps(rig, partition)


async def swap_two_sagas(rig: AuditRig, sagas: list[UUID]) -> None:
    """Give each of two sagas the other's name, in the columns and in the headers, and make every hash fit."""
    one, other = (str(each) for each in sagas[:2])
    for old, new in ((one, str(UUID(int=0))), (other, one), (str(UUID(int=0)), other)):
        statement = (
            "UPDATE saga_event SET saga_id = $2, headers = replace(headers, $1, $3) WHERE saga_id = $1::text::uuid"
        )
        await rig.attack(statement, old, UUID(new), new)
    await rig.recompute()


async def back_date_a_column(rig: AuditRig, sagas: list[UUID]) -> None:
    """Say of a fact that it was earlier, in the column that people read."""
    row = (await rig.rows(sagas[0]))[3]
    await rig.attack(f"UPDATE saga_event SET event_time = event_time - 1000000000 WHERE {ROW}", *place(row))


async def back_date_a_fact(rig: AuditRig, sagas: list[UUID]) -> None:
    """Say so everywhere, headers, broker's time and hashes included."""
    row = (await rig.rows(sagas[0]))[3]
    earlier = row["headers"].replace(format_time(row["event_time"]), format_time(row["event_time"] - 10**9))
    assert earlier != row["headers"]
    await rig.attack(
        f"UPDATE saga_event SET recorded_at = recorded_at - interval '1 s', event_time = event_time - 1000000000,"
        f" headers = $4 WHERE {ROW}",
        *place(row),
        earlier,
    )
    await rig.recompute()


ATTACKS = [
    (flip_a_byte, Verdict.ALTERED),
    (rewrite_a_chain, Verdict.ALTERED),
    (remove_a_row, Verdict.INCOMPLETE),
    (remove_a_row_and_close_the_gap, Verdict.ALTERED),
    (cut_the_tail, Verdict.INCOMPLETE),
    (remove_a_saga, Verdict.ALTERED),
    (swap_two_sagas, Verdict.ALTERED),
    (back_date_a_column, Verdict.ALTERED),
    (back_date_a_fact, Verdict.ALTERED),
]


async def test_the_clean_log_is_believed(rig: AuditRig) -> None:
    """With witness and without; what came after the last seal is counted, not doubted."""
    await filled(rig)
    await rig.record(1)
    for with_witness in (True, False):
        report = await rig.verify(with_witness=with_witness)
        assert report.findings == []
        assert (report.rows, report.unsealed) == (13 * 5, 5)


@pytest.mark.parametrize(("attack", "verdict"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
async def test_an_attack_is_found(rig: AuditRig, attack: Attack, verdict: Verdict) -> None:
    """By one who may do anything but sign, and rewrite the witness."""
    sagas = await filled(rig)
    await attack(rig, sagas)
    report = await rig.verify()
    assert not report.holds(verdict)
    assert any(TOPIC in finding.where for finding in report.findings)


async def test_one_who_takes_the_witness_too_must_leave_no_seal(rig: AuditRig) -> None:
    """Without a single checkpoint nothing is called complete."""
    await filled(rig)
    await rig.attack("DELETE FROM audit_checkpoint")
    report = await rig.verify(with_witness=False)
    assert not report.holds(Verdict.INCOMPLETE)


async def test_a_checkpoint_of_another_key_is_not_believed(rig: AuditRig) -> None:
    """An attacker who has a key has not the key."""
    await filled(rig)
    mine, rig.signer = rig.signer, Signer.generate("test")
    await rig.record(1)
    sealer = rig.sealer()
    with pytest.raises(NoteError, match="no known key"):
        await sealer.open(rig.sql)
    await sealer.seal(rig.sql, UNKNOWN)
    rig.signer = mine
    report = await rig.verify()
    assert not report.holds(Verdict.ALTERED)


async def test_the_sealer_does_not_seal_a_rewritten_past(rig: AuditRig) -> None:
    """Its checkpoints gone from the database, the witness's still hold: rows that do not fit them halt it."""
    sagas = await filled(rig)
    await rig.attack("DELETE FROM audit_checkpoint")
    await rewrite_a_chain(rig, sagas)
    with pytest.raises(HistoryError, match="not those that the witness has sealed"):
        await rig.seal()


async def test_lost_checkpoints_are_restored_from_the_witness(rig: AuditRig) -> None:
    """After a rebuild of the database the rows are as they were: what was signed of them is taken over, and goes on."""
    await filled(rig)
    before = await rig.sql.fetch("SELECT note FROM audit_checkpoint ORDER BY topic, partition, size")
    await rig.attack("DELETE FROM audit_checkpoint")
    await rig.attack("DELETE FROM audit_edge")
    assert await rig.seal() > 0
    assert await rig.sql.fetch("SELECT note FROM audit_checkpoint ORDER BY topic, partition, size") == before
    await rig.record(1)
    assert await rig.seal() == 1
    assert (await rig.verify()).findings == []


async def test_an_edge_that_nobody_sealed_is_refused(rig: AuditRig) -> None:
    """The sealer's own notes are believed only where a checkpoint says the same."""
    await filled(rig)
    await rig.attack("UPDATE audit_edge SET edge = set_byte(edge, 0, get_byte(edge, 0) # 1)")
    with pytest.raises(HistoryError, match="not that of the last checkpoint"):
        await rig.seal()


async def test_only_one_seals_at_a_time(rig: AuditRig, database_url: str) -> None:
    """The second waits until the first has gone."""
    other = await asyncpg.connect(database_url)
    try:
        assert await take_turn(rig.sql)
        assert not await take_turn(other)
        await rig.sql.close()
        await asyncio.sleep(0.2)
        assert await take_turn(other)
    finally:
        await other.close()
