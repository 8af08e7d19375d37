"""What the guard decides from what it has found, without any server."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradesaga.infra.audit_log.checkpoint import Checkpoint
from tradesaga.infra.clock import format_time
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.admin import differing
from tradesaga.infra.kafka.codec import Record, RecordChecksum, checksum
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.inspector import NO_ID, Committed, TopicState
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.outbox.guard import saga_of
from tradesaga.infra.outbox.guard_rules import (
    Evidence,
    KnownLane,
    Owner,
    check_evidence,
    check_owner,
    last_published,
    last_seen,
    unproven_ranges,
)
from tradesaga.infra.outbox.processor import HaltError
from tradesaga.infra.postgres.installation import DatabaseIdentity, Identity, choose_installation

NOW = 1_700_000_000 * 10**9
HERE = Identity(UUID(int=7), 3)
TOPIC = TopicState(UUID(int=1), 12)
PLACE: Partition = ("t.events", 0)
RECORD = Record("t.events", 0, 9, 1_700_000_000_000, b"k", b"{}", ())
SEEN = checksum(RECORD.offset, RECORD.recorded_ms, RECORD.key, RECORD.value)


def lane(next_offset: int = 10, topic: TopicState | None = TOPIC, seen: RecordChecksum | None = SEEN) -> KnownLane:
    """Return a lane of group g."""
    pinned = (topic.id, topic.partitions) if topic else (None, None)
    return KnownLane("g", *PLACE, next_offset, *pinned, *(seen or (None, None)))


def sealed(next_offset: int) -> dict[Partition, Checkpoint]:
    """Return a checkpoint of the partition that ends before this offset."""
    return {PLACE: Checkpoint("tradesaga/t.events/0", next_offset, bytes(32), next_offset, "", 1)}


def saga_log(next_offset: int) -> KnownLane:
    """Return the lane of the saga log."""
    return KnownLane("t-log", *PLACE, next_offset, None, None, None, None)


def found(
    *lanes: KnownLane,
    offset: int | None = None,
    by: Identity | str = HERE,
    topic: TopicState | None = TOPIC,
    held: tuple[int, int] = (0, 20),
    record: Record | None = RECORD,
    lost: Record | None = None,
    prefix: str = "",
) -> Evidence:
    """Return what would be found of these lanes."""
    committed: dict[Partition, Committed] = {} if offset is None else {PLACE: Committed(offset, str(by))}
    return Evidence(
        "g", HERE, lanes, {"g": committed}, {"t.events": topic} if topic else {}, {PLACE: held} if lanes else {},
        {PLACE: record} if record else {}, {"g": lost} if lost else {}, Cluster("broker:9092", prefix),
    )  # fmt: skip


@pytest.mark.parametrize(
    "fine",
    [
        found(),
        found(lane(), offset=10),
        found(lane(), offset=4),
        found(lane(), offset=15, by=""),
        found(lane(), offset=15, by="somebody's own note"),
        found(lane(), offset=15, by=Identity(HERE.installation, 2)),
        found(lane(topic=None), topic=TopicState(UUID(int=5), 24)),
        found(lane(topic=TopicState(NO_ID, 12))),
        found(lane(), topic=TopicState(NO_ID, 12)),
        found(lane(), record=None),
        found(lane(seen=None)),
        found(lane(), record=RECORD._replace(offset=11, value=b"the one seen is gone")),
        found(lane(next_offset=20)),
    ],
)
def test_what_belongs_together_passes(fine: Evidence) -> None:
    """Nothing that is known, or too little, speaks against it."""
    check_evidence(fine)


@pytest.mark.parametrize(
    ("bad", "sentence", "command"),
    [
        (found(offset=10), "knows nothing of g", "tradesaga recover database"),
        (found(offset=10, by=""), "knows nothing of g", "tradesaga recover database"),
        (found(lane(), offset=11), "was set back to an earlier moment", "tradesaga recover restored"),
        (found(lane(), offset=2, by=Identity(HERE.installation, 4)), "before a recovery", "tradesaga recover restored"),
        (found(lane(), offset=2, by=Identity(UUID(int=8), 3)), "belongs to installation", "migrate --installation"),
        (found(offset=2, by=Identity(UUID(int=8), 3)), "belongs to installation", "migrate --installation"),
        (found(lane(), lost=RECORD), "has a fact of g at offset 9", "tradesaga recover restored"),
        (found(lane(), topic=None), "is gone", "tradesaga recover topics"),
        (found(lane(), topic=TopicState(UUID(int=2), 12)), "recreated", "tradesaga recover topics"),
        (found(lane(), topic=TopicState(UUID(int=1), 24)), "has 24 partitions and had 12", "tradesaga recover topics"),
        (found(lane(), held=(0, 9)), "the database is at offset 10", "tradesaga recover topics"),
        (found(lane(), held=(11, 20)), "the database is at offset 10", "docs/operations.md"),
        (found(lane(), record=RECORD._replace(value=b"[]")), "another record", "tradesaga recover topics"),
        (found(lane(), record=RECORD._replace(key=b"l")), "another record", "tradesaga recover topics"),
        (found(lane(), record=RECORD._replace(recorded_ms=1)), "another record", "tradesaga recover topics"),
    ],
)
def test_what_does_not_belong_together_halts(bad: Evidence, sentence: str, command: str) -> None:
    """One sentence says what was found, and names the command to run."""
    with pytest.raises(HaltError) as halted:
        check_evidence(bad)
    assert sentence in str(halted.value)
    assert command in str(halted.value)
    assert "\n" not in str(halted.value)


@pytest.mark.parametrize(
    "fine",
    [
        found(lane()), found(lane(), saga_log(12)), found(lane(), saga_log(15)),
        replace(found(lane(), saga_log(3)), ranges={PLACE: (0, 11)}),
    ],
)  # fmt: skip
def test_seals_that_say_nothing_pass(fine: Evidence) -> None:
    """No lane of the saga log in this database, one that is as far, and a seal beyond the end of its partition."""
    check_evidence(replace(fine, seals=sealed(12)))


@pytest.mark.parametrize(
    ("bad", "sentence", "command"),
    [
        (found(lane(), saga_log(11)), "is sealed up to offset 12, and the database has read it up to 11", "restored"),
        (found(lane(), saga_log(0)), "the database knows nothing of it", "tradesaga recover database"),
        (replace(found(), group="t-log", ranges={PLACE: (0, 20)}), "knows nothing of it", "tradesaga recover database"),
    ],
)
def test_a_partition_that_is_sealed_further_than_it_was_read_halts(bad: Evidence, sentence: str, command: str) -> None:
    """Only what the saga log had read was ever sealed."""
    with pytest.raises(HaltError) as halted:
        check_evidence(replace(bad, seals=sealed(12)))
    assert sentence in str(halted.value)
    assert command in str(halted.value)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (found(lane(), offset=15, prefix="desk7"), "of desk7.t.events[0], yet Kafka has desk7.g at 15"),
        (found(offset=15, prefix="desk7"), "delete the group desk7.g in Kafka"),
        (found(lane(), offset=2, by=Identity(UUID(int=8), 3), prefix="desk7"), "the group desk7.g belongs to"),
        (found(lane(), topic=None, prefix="desk7"), "the topic desk7.t.events, which"),
        (found(lane(), held=(0, 9), prefix="desk7"), "desk7.t.events[0]: the database"),
        (found(lane(), lost=RECORD, prefix="desk7"), "desk7.t.events[0] has a fact of g"),
    ],
)
def test_sentences_have_the_names_of_the_cluster(bad: Evidence, sentence: str) -> None:
    """What a person looks for with Kafka's own tools."""
    with pytest.raises(HaltError) as error:
        check_evidence(bad)
    assert sentence in str(error.value)


def test_a_group_is_halted_by_what_another_one_shows() -> None:
    """A database that was set back is one for all of its groups."""
    one = found(lane(), offset=10)
    other = KnownLane("h", *PLACE, 3, None, None, None, None)
    committed = {**one.committed, "h": {PLACE: Committed(5, str(HERE))}}
    with pytest.raises(HaltError, match="Kafka has h at 5"):
        check_evidence(replace(one, lanes=[*one.lanes, other], committed=committed))


OTHERS = KnownLane("h", *PLACE, 10, TOPIC.id, TOPIC.partitions, *SEEN)


def test_a_topic_that_was_cut_off_halts_groups_that_do_not_read_it() -> None:
    """What another group in the database has read is gone, or is another record now."""
    for bad, sentence in (
        (found(OTHERS, held=(0, 9)), "the database is at offset 10"),
        (found(OTHERS, record=RECORD._replace(value=b"[]")), "than the one that h has read"),
    ):
        with pytest.raises(HaltError, match=sentence):
            check_evidence(bad)


def test_records_that_another_group_has_not_read_in_time_halt_that_group_alone() -> None:
    """Retention removed them; nobody else needs them."""
    check_evidence(found(OTHERS, held=(11, 20)))
    with pytest.raises(HaltError, match="move the lane of h"):
        check_evidence(replace(found(OTHERS, held=(11, 20)), group="h"))


def test_the_last_record_that_any_group_has_read_is_compared() -> None:
    """Whatever lies before it was there when it was read."""
    later = OTHERS._replace(seen_offset=12)
    assert last_seen([lane(), later, saga_log(3)]) == {PLACE: 12}


def test_what_an_earlier_release_had_read_is_looked_for_behind_the_saga_log() -> None:
    """Other groups pass by what they do not want; offsets with an identity are compared as they are."""
    lanes = [lane(), saga_log(10)]

    def committed(offset: int, by: str = "") -> dict[str, dict[Partition, Committed]]:
        return {"g": {PLACE: Committed(15, "")}, "t-log": {PLACE: Committed(offset, by)}}

    assert unproven_ranges("t-log", lanes, committed(15)) == {PLACE: (10, 15)}
    assert unproven_ranges("t-log", lanes, committed(10)) == {}
    assert unproven_ranges("t-log", lanes, committed(15, str(HERE))) == {}
    assert unproven_ranges("t-log", [lane()], committed(15)) == {}
    with pytest.raises(HaltError, match=r"an earlier release had the saga log past .* `tradesaga recover restored`"):
        check_evidence(replace(found(*lanes), passed={PLACE: RECORD}))


def test_topics_of_another_installation_are_named() -> None:
    """The sentence says whose they are."""
    owner = Owner(UUID(int=8), "trading at db1:5432", "2026-01-02T03:04:05+00:00")
    check_owner("t", owner, Identity(UUID(int=8), 0), "here")
    with pytest.raises(HaltError, match=r"belong to installation .* .database trading at db1:5432, since 2026"):
        check_owner("t", owner, HERE, "here")


@given(st.uuids(), st.integers(0, 2**62))
def test_an_identity_reads_itself(installation: UUID, incarnation: int) -> None:
    """What is written beside an offset is read back."""
    identity = Identity(installation, incarnation)
    assert Identity.parse(str(identity)) == identity


@given(st.text() | st.builds("tradesaga/1 {} {}".format, st.text(), st.text()))
def test_any_other_metadata_is_nobodys(text: str) -> None:
    """Other tools may leave anything there."""
    parsed = Identity.parse(text)
    assert parsed is None or str(parsed.installation) in text.lower() or parsed.installation.hex in text.lower()


@given(st.binary())
def test_any_record_may_lie_on_the_installation_topic(value: bytes) -> None:
    """What is none of ours is passed over."""
    assert Owner.read(value) is None


def test_an_owner_reads_itself() -> None:
    """What is written is read back; unknown members are left alone."""
    owner = Owner(uuid4(), "trading", "2026-01-02T03:04:05+00:00")
    assert Owner.read(owner.to_wire()) == owner
    assert Owner.read(owner.to_wire()[:-1] + b',"later":1}') == owner


def named(installation: int, *, claimed: bool) -> DatabaseIdentity:
    """Return a database's identity."""
    return DatabaseIdentity(Identity(UUID(int=installation), 0), claimed, f"db{installation}")


def test_databases_share_the_id_that_is_in_use() -> None:
    """New ones join the claimed one, or what is asked for; two that are in use are two installations."""
    assert choose_installation([named(1, claimed=False), named(2, claimed=True)]) == UUID(int=2)
    assert choose_installation([named(1, claimed=False), named(2, claimed=False)]) == UUID(int=1)
    assert choose_installation([named(1, claimed=False)], UUID(int=9)) == UUID(int=9)
    for bad, wanted in (([named(1, claimed=True), named(2, claimed=True)], None), ([named(1, claimed=True)], 9)):
        with pytest.raises(CommandError) as refused:
            choose_installation(bad, UUID(int=wanted) if wanted else None)
        assert refused.value.exit_code is ExitCode.REFUSED
        assert "db1" in refused.value.what


def test_a_change_of_a_topic_is_one_of_id_number_or_existence() -> None:
    """One that is first seen now has not changed."""
    before = dict.fromkeys("abcd", TOPIC)
    now = {"a": TOPIC, "b": TopicState(UUID(int=2), 12), "c": TopicState(UUID(int=1), 24), "e": TOPIC}
    assert differing(before, now) == {"b", "c", "d"}


def fact(offset: int, source: str = "/t/pay", *, age: int = 0, partition: int = 0, ce_id: str = "") -> Record:
    """Return a fact on the events topic, `age` hours old."""
    headers = [
        ("ce_source", source.encode()),
        ("ce_id", (ce_id or str(uuid4())).encode()),
        ("ce_time", format_time(NOW - age * 3600 * 10**9).encode()),
    ]
    return Record("t.events", partition, offset, 1_700_000_000_000, b"k", b"{}", headers)


def test_the_last_fact_of_each_group_on_each_partition_is_looked_up() -> None:
    """Older ones, those of others, those before the offset and what is none of ours are no evidence."""
    behind = {("t-pay", 0): 5, ("t-pay", 1): 0, ("t-book-keeping", 0): 0}
    records = [
        fact(4), fact(5), fact(6), fact(7, "/t/stranger"), fact(8, age=25), fact(9, ce_id="x"), fact(10, "pay\xff"),
        fact(3, partition=1), fact(6, "/t/book-keeping"), RECORD,
    ]  # fmt: skip
    said = last_published("t", behind, records, NOW)
    assert {key: record.offset for key, record in said.items()} == {
        ("t-pay", 0): 6,
        ("t-pay", 1): 3,
        ("t-book-keeping", 0): 6,
    }


def test_the_saga_is_read_from_the_topics() -> None:
    """A prefix of the topics stays with the saga."""
    assert [saga_of([name]) for name in ("trade.events", "desk.trade.events", "plain")] == [
        "trade",
        "desk.trade",
        "plain",
    ]
