"""Whoever uses retention to be rid of evidence is found out: partitions gone by hand, forged records, holds undone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.retention.rig import RetentionRig, named
from tradesaga.consumers.audit.log.action_log import Action, ActionKind, ActionLog, Entry, read_entries
from tradesaga.consumers.audit.log.checkpoints import HistoryError
from tradesaga.consumers.audit.log.log_check import Verdict
from tradesaga.consumers.audit.retention.legal_holds import Scope
from tradesaga.consumers.audit.retention.retire import RetireRequest, retire
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.audit_log.schedule import parse_schedule
from tradesaga.infra.audit_log.witness import WitnessFile

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]

Attack = Callable[[RetentionRig], Awaitable[None]]


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[RetentionRig]:
    """Give an audit log of four months, the first of them retired, the second under a hold."""
    sql = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    rig = RetentionRig(sql, tmp_path)
    await rig.make_months()
    sagas = [await rig.month(month, sagas=6) for month in (1, 2, 3)]
    await rig.retire(1)
    await rig.hold(Scope.SAGA, str(sagas[1][0]))
    yield rig
    await sql.close()


async def drop_a_partition(rig: RetentionRig) -> None:
    """Take a whole month out, and say nothing."""
    await rig.sql.execute(f"DROP TABLE {named(2)}")


async def drop_the_last_partition(rig: RetentionRig) -> None:
    """Take the newest month out, with the checkpoints that tell of it."""
    first = await rig.sql.fetch(f'SELECT partition, min("offset") AS size FROM {named(3)} GROUP BY partition')
    await rig.sql.execute(f"DROP TABLE {named(3)}")
    for row in first:
        await rig.attack(
            "DELETE FROM audit_checkpoint WHERE partition = $1 AND size > $2", row["partition"], row["size"]
        )


async def forge_a_retirement(rig: RetentionRig) -> None:
    """Undo the hold, and retire a month as the product does, but for the key and the witness."""
    await remove_a_hold(rig)
    own = WitnessFile(rig.folder / "own.jsonl")
    own.append(each for each in rig.witness.read() if '"kind":"hold"' not in each.body)
    log = ActionLog(rig.sql, "test", rig.log.trusted, own)
    order = RetireRequest([named(2)], "ann", "five years have passed")
    await retire(log, Signer.generate("test"), parse_schedule("5y"), order, lambda _: None)


async def rewrite_a_retirement(rig: RetentionRig) -> None:
    """Have the signed retirement tell of another reason, and of another number of records."""
    await rig.attack("UPDATE audit_action SET body = replace(body, 'five years', 'seven years') WHERE number = 0")


async def remove_a_retirement(rig: RetentionRig) -> None:
    """Let nobody know who retired the first month: all that was ever done is forgotten."""
    await rig.attack("DELETE FROM audit_action")


async def remove_a_hold(rig: RetentionRig) -> None:
    """Take the hold away, the last action, so that no gap is left."""
    await rig.attack("DELETE FROM audit_action WHERE number = 1")


async def release_a_hold_unsigned(rig: RetentionRig) -> None:
    """Write that the hold was released."""
    body = Action(ActionKind.RELEASE, "eve", "settled", 2, {"hold": 1}).to_body()
    await rig.attack("INSERT INTO audit_action (number, body, note) VALUES (2, $1, '')", body)


async def release_a_hold_with_another_key(rig: RetentionRig) -> None:
    """Sign the release with a key of one's own."""
    rig.signer, mine = Signer.generate("test"), rig.signer
    await release_a_hold_unsigned(rig)
    note = rig.signer.sign("test/audit.actions/0\n3\n")
    rig.signer = mine
    await rig.attack("UPDATE audit_action SET note = $1 WHERE number = 2", note)


ATTACKS = [
    (drop_a_partition, Verdict.INCOMPLETE),
    (drop_the_last_partition, Verdict.INCOMPLETE),
    (forge_a_retirement, Verdict.INCOMPLETE),
    (forge_a_retirement, Verdict.ALTERED),
    (rewrite_a_retirement, Verdict.ALTERED),
    (remove_a_retirement, Verdict.INCOMPLETE),
    (remove_a_hold, Verdict.INCOMPLETE),
    (release_a_hold_unsigned, Verdict.ALTERED),
    (release_a_hold_with_another_key, Verdict.ALTERED),
]


async def test_the_clean_log_is_believed(rig: RetentionRig) -> None:
    """With witness and without, retired records and all."""
    for with_witness in (True, False):
        report = await rig.verify(with_witness=with_witness)
        assert report.findings == []
        assert [each.records for each in report.retired] == [30]


@pytest.mark.parametrize(
    ("attack", "verdict"), ATTACKS, ids=[f"{attack.__name__}-{verdict}" for attack, verdict in ATTACKS]
)
async def test_an_attack_is_found(rig: RetentionRig, attack: Attack, verdict: Verdict) -> None:
    """By one who may do anything but sign, and rewrite the witness."""
    await attack(rig)
    assert not (await rig.verify()).holds(verdict)


@pytest.mark.parametrize(
    "attack",
    [rewrite_a_retirement, release_a_hold_unsigned, release_a_hold_with_another_key],
    ids=lambda attack: attack.__name__,
)
async def test_nothing_is_retired_on_what_was_forged(rig: RetentionRig, attack: Attack) -> None:
    """An operator who believes the altered list of holds is not helped to destroy what they keep."""
    await attack(rig)
    with pytest.raises(HistoryError):
        await rig.retire(2)
    assert await rig.sql.fetchval("SELECT to_regclass($1) IS NOT NULL", named(2))


async def test_a_hold_that_was_removed_still_holds(rig: RetentionRig) -> None:
    """It comes back from the witness before anything is retired."""
    await remove_a_hold(rig)
    assert "hold 1 (" in await rig.why_not(2)


async def test_an_entry_is_refused_by_the_table_itself(rig: RetentionRig) -> None:
    """Honest people cannot change what operators did."""
    before: list[Entry] = await read_entries(rig.sql)
    for statement in ("UPDATE audit_action SET body = ''", "DELETE FROM audit_action", "TRUNCATE audit_action"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await rig.sql.execute(statement)
    assert await read_entries(rig.sql) == before
