"""Whole partitions of the audit log are retired, what must stay stays, and what is left still proves itself."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.consumers.audit.retention.rig import RetentionRig, named
from tests.integration.consumers.audit.rig import STORY, TOPIC
from tests.sagas import Held, OrderAsked
from tradesaga.consumers.audit.log.checkpoints import HistoryError
from tradesaga.consumers.audit.log.log_check import Verdict
from tradesaga.consumers.audit.retention.drop import Evidence, Exported
from tradesaga.consumers.audit.retention.legal_holds import Scope
from tradesaga.infra.errors import CommandError, ExitCode

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[RetentionRig]:
    """Give an audit log of three months of 2019, five years of which are asked for."""
    sql = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    rig = RetentionRig(sql, tmp_path)
    await rig.make_months()
    yield rig
    await sql.close()


async def test_what_was_retired_is_told_and_the_rest_still_proves_itself(rig: RetentionRig) -> None:
    """Whole partitions go, their sealed past stands as a tombstone, and sealing and verifying go on behind it."""
    for month in (1, 2, 3):
        await rig.month(month)
    for _ in range(2):
        await rig.retire()
    report = await rig.verify()
    assert report.findings == []
    assert (report.rows, report.unsealed) == (15, 0)
    assert [(each.operator, each.reason, each.records) for each in report.retired] == [
        ("ann", "five years have passed", 15)
    ] * 2
    begins = {origin: offset for each in report.retired for origin, offset in each.offsets.items()}
    rows = await rig.sql.fetch('SELECT partition, min("offset") AS first FROM saga_event GROUP BY partition')
    assert all(begins.get(f"test/{TOPIC}/{row['partition']}", 0) == row["first"] for row in rows)
    await rig.month(3)
    assert (await rig.verify(with_witness=False)).findings == []
    parts = await rig.looks()
    assert named(1) not in parts
    assert parts[named(3)].records == 30


async def test_a_saga_over_two_months_goes_on(rig: RetentionRig) -> None:
    """Its chain is taken up where the retired part has left it; so is one that had ended."""
    ids = await rig.month(1, story=STORY[:2])
    rig.at(2)
    await rig.go_on(ids, STORY[2:])
    await rig.seal()
    await rig.retire(1)
    assert (await rig.verify()).findings == []
    await rig.retire(2)
    rig.at(3)
    await rig.go_on(ids[:1], [Held()])
    assert await rig.seal() == 1
    report = await rig.verify()
    assert report.findings == []
    assert report.rows == 1
    await rig.attack("UPDATE audit_retired_head SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1)")
    assert not (await rig.verify()).holds(Verdict.ALTERED)


async def test_a_log_of_which_all_is_retired_is_complete(rig: RetentionRig) -> None:
    """Nothing is left but what was signed; another record that was sealed and is not there is missed."""
    await rig.month(1)
    await rig.retire(1)
    report = await rig.verify()
    assert (report.findings, report.rows) == ([], 0)
    await rig.month(2, sagas=1)
    await rig.attack("DELETE FROM saga_event")
    assert not (await rig.verify()).holds(Verdict.INCOMPLETE)


@pytest.mark.parametrize("schedule", ["off", "20y", "1y, small=off", "1y, small=20y"])
async def test_what_is_younger_than_the_schedule_stays(rig: RetentionRig, schedule: str) -> None:
    """Whatever else speaks for retiring it; a saga's own schedule comes before the general one."""
    await rig.month(1)
    rig.schedule = schedule
    assert "kept until" in (why := await rig.why_not(1)) or "no schedule" in why
    rig.schedule = "20y, small=1y"
    await rig.retire(1)


async def test_an_open_saga_stays(rig: RetentionRig) -> None:
    """A saga that is not at its end keeps the partition with its records, and the survey says since when it is open."""
    await rig.month(1)
    ids = await rig.month(1, sagas=2, story=STORY[:2])
    assert await rig.why_not(1) == "2 sagas of it are not at their end"
    look = (await rig.looks())[named(1)]
    assert look.open_sagas == 2
    assert look.oldest_open == datetime.fromtimestamp(min(_began(rig, each) for each in ids) / 1000, UTC)
    await rig.go_on(ids, STORY[2:])
    await rig.seal()
    await rig.retire(1)


def _began(rig: RetentionRig, saga_id: UUID) -> int:
    checkpoint = rig.known[saga_id].snapshot
    assert checkpoint is not None
    return checkpoint.created_ms


async def test_a_parked_record_keeps_its_saga(rig: RetentionRig) -> None:
    """Somebody has still to decide what becomes of it."""
    (saga_id,) = await rig.month(1, sagas=1)
    await rig.sql.execute(
        'INSERT INTO parked ("group", topic, partition, "offset", saga_id, reason, recorded_at, headers)'
        " VALUES ('g', $1, 0, 99, $2, '', now(), '')",
        TOPIC,
        saga_id,
    )
    assert "not at their end" in await rig.why_not(1)
    await rig.sql.execute("UPDATE parked SET released = 'discard'")
    await rig.retire(1)


async def test_what_is_not_sealed_stays(rig: RetentionRig) -> None:
    """A tombstone is worth what a checkpoint proves."""
    await rig.month(1)
    await rig.record(1)
    assert "is sealed up to offset" in await rig.why_not(1)
    await rig.seal()
    await rig.retire(1)


async def test_a_later_month_waits_for_the_earlier(rig: RetentionRig) -> None:
    """Only the beginning of a log can be retired."""
    await rig.month(1)
    await rig.month(2)
    assert f"{named(1)} holds older records" in await rig.why_not(2)
    await rig.retire(2, 1)
    assert (await rig.verify()).findings == []


async def test_times_that_went_back_over_a_month_s_end_retire_together(rig: RetentionRig) -> None:
    """A month that ends behind the next one's beginning is refused alone, by name, and goes with it."""
    ids = await rig.month(1, story=STORY[:2])
    for month, story in ((2, STORY[2:4]), (1, STORY[4:])):
        rig.at(month)
        await rig.go_on(ids, story)
    await rig.seal()
    assert f"{named(2)} holds older records" in await rig.why_not(1)
    with pytest.raises(CommandError, match="no partition may be retired"):
        await rig.retire()
    await rig.retire(1, 2)
    report = await rig.verify()
    assert (report.findings, report.rows) == ([], 0)


async def test_records_without_a_month_s_partition_retire_too(rig: RetentionRig) -> None:
    """What lies in the default partition goes as a whole, and a new one takes its place."""
    rig.at(1, year=2017)
    await rig.record(2)
    await rig.seal()
    rig.at(4)
    order = ("saga_event_default",)
    assert (await rig.looks())[order[0]].why_not == []
    action = await rig.retire()
    assert [each["name"] for each in action.detail["partitions"]] == list(order)
    await rig.record(1)
    await rig.seal()
    report = await rig.verify()
    assert (report.findings, report.rows) == ([], 5)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await rig.sql.execute("TRUNCATE saga_event_default")


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_hold_keeps_a_partition_until_it_is_released(rig: RetentionRig, scope: Scope) -> None:
    """By saga, account, symbol or time; a hold of something else keeps nothing."""
    ids = await rig.month(1, story=[OrderAsked(idempotency_key="k", account="A-7", symbol="EUR/CHF"), *STORY[1:]])
    await rig.month(2)
    keys = {Scope.SAGA: str(ids[1]), Scope.ACCOUNT: "A-7", Scope.SYMBOL: "EUR/CHF", Scope.TIME: "2019-01-10T00:00Z"}
    until = datetime(2019, 1, 11, tzinfo=UTC) if scope is Scope.TIME else None
    number = await rig.hold(scope, keys[scope], until)
    assert f"hold {number} (" in await rig.why_not(1)
    assert (await rig.looks())[named(1)].holds != []
    assert (await rig.looks())[named(2)].holds == []
    await rig.release(number)
    await rig.retire(1)
    assert (await rig.verify()).findings == []


async def test_a_hold_is_read_from_the_sealed_bytes_too(rig: RetentionRig) -> None:
    """Whoever changes the saga's row hides its account from nobody."""
    await rig.month(1, story=[OrderAsked(idempotency_key="k", account="A-7"), *STORY[1:]])
    await rig.hold(Scope.ACCOUNT, "A-7")
    await rig.attack("UPDATE saga SET context = replace(context::text, 'A-7', 'B-8')::json")
    assert "A-7" in await rig.why_not(1)


async def test_records_of_no_known_saga_are_held_in_doubt(rig: RetentionRig) -> None:
    """Of whom they are nobody can tell; without a hold of an account or a symbol they go."""
    ids = await rig.month(1)
    await rig.sql.execute("DELETE FROM saga WHERE saga_id = $1", ids[0])
    number = await rig.hold(Scope.ACCOUNT, "somebody else")
    assert "records of no known saga" in await rig.why_not(1)
    await rig.release(number)
    await rig.retire(1)


async def test_altered_records_are_not_retired(rig: RetentionRig) -> None:
    """What goes is verified once more, to the checkpoint behind it: a retirement is no way to be rid of evidence."""
    await rig.month(1)
    await rig.month(2)
    await rig.attack(f"UPDATE {named(1)} SET value = value || ' '")
    await rig.recompute()
    assert "not those that were sealed" in await rig.why_not(1)


async def test_retired_records_are_kept_until_they_are_dropped(rig: RetentionRig) -> None:
    """The table that was detached refuses changes as before, and is dropped only on evidence, or expressly without."""
    await rig.month(1)
    action = await rig.retire(1)
    table = action.detail["partitions"][0]["table"]
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET topic = ''", f"TRUNCATE {table}"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await rig.sql.execute(statement)
    logs = [
        Exported(each["topic"], each["partition"], each["first"], each["next"] - 1) for each in action.detail["logs"]
    ]
    with pytest.raises(CommandError, match="the export does not hold offsets") as refused:
        await rig.drop(named(1), Evidence("f00", "export", [logs[0]._replace(last=logs[0].last - 1), *logs[1:]]))
    assert refused.value.exit_code is ExitCode.REFUSED
    assert (await rig.drop(named(1), Evidence("f00", "export", logs))).detail["manifest"] == "f00"
    assert not await rig.sql.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
    assert (await rig.verify()).findings == []
    with pytest.raises(CommandError, match="no retired partition"):
        await rig.drop(named(1))


async def test_a_hold_set_after_the_retirement_forbids_the_drop(rig: RetentionRig) -> None:
    """What a court asks for in between is still there."""
    ids = await rig.month(1)
    await rig.retire(1)
    number = await rig.hold(Scope.SAGA, str(ids[0]))
    with pytest.raises(CommandError, match=f"hold {number}"):
        await rig.drop(named(1))
    await rig.release(number)
    await rig.drop(named(1))


async def test_two_operators_retire_once_while_records_come_in(rig: RetentionRig, database_url: str) -> None:
    """The second is told that the month is gone; what is recorded meanwhile is neither lost nor retired."""
    await rig.month(1, sagas=20)
    rig.at(3)
    others = [RetentionRig(await asyncpg.connect(database_url), rig.folder, rig.signer) for _ in range(2)]
    try:
        told = await asyncio.gather(*(other.retire(1) for other in others), rig.record(5), return_exceptions=True)
        done = [each for each in told[:2] if not isinstance(each, BaseException)]
        (refused,) = [each for each in told[:2] if isinstance(each, BaseException)]
        assert len(done) == 1
        assert isinstance(refused, CommandError)
        assert refused.exit_code is ExitCode.NOT_FOUND
        await rig.seal()
        report = await rig.verify()
        assert (report.findings, report.rows, report.unsealed) == ([], 25, 0)
    finally:
        for other in others:
            await other.sql.close()


async def test_lost_actions_come_back_from_the_witness(rig: RetentionRig) -> None:
    """A table that was emptied is missed by whoever verifies, and filled in again before the next action."""
    await rig.month(1)
    await rig.month(2)
    number = await rig.hold(Scope.ACCOUNT, "A")
    await rig.attack("DELETE FROM audit_action")
    assert not (await rig.verify()).holds(Verdict.INCOMPLETE)
    with pytest.raises(HistoryError, match="1 actions were signed; 0 are there"):
        await rig.log.read()
    assert f"hold {number}" in await rig.why_not(1)
    assert await rig.hold(Scope.SYMBOL, "X") == number + 1
    assert (await rig.verify()).findings == []


async def test_actions_that_the_witness_has_not_got_are_given_to_it(rig: RetentionRig) -> None:
    """Whoever dies between the database and the witness is made good for by the next."""
    await rig.month(1)
    before = rig.witness.last()
    await rig.hold(Scope.ACCOUNT, "A")
    lines = (rig.folder / "witness.jsonl").read_bytes().splitlines(keepends=True)
    (rig.folder / "witness.jsonl").write_bytes(b"".join(lines[:-1]))
    assert rig.witness.last() == before
    await rig.hold(Scope.ACCOUNT, "B")
    assert [each.size for each in rig.witness.read() if each.body] == [1, 2]
    assert (await rig.verify()).findings == []


async def test_the_sealer_goes_on_behind_what_was_retired(rig: RetentionRig) -> None:
    """Its own notes and all checkpoints lost, it starts where the tombstone says, and takes the witness's over."""
    await rig.month(1)
    await rig.month(2)
    await rig.retire(1)
    before = {row["note"] for row in await rig.sql.fetch("SELECT note FROM audit_checkpoint")}
    await rig.attack("DELETE FROM audit_checkpoint")
    await rig.attack("DELETE FROM audit_edge")
    await rig.seal()
    await rig.month(3, sagas=1)
    report = await rig.verify()
    assert (report.findings, report.unsealed) == ([], 0)
    assert before <= {row["note"] for row in await rig.sql.fetch("SELECT note FROM audit_checkpoint")}
