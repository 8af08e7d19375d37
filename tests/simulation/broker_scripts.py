"""What the step path asks of Kafka, as scripts: each gives what it has seen, in words that both ports share."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

from tradesaga.infra.kafka.codec import Outgoing, Record
from tradesaga.infra.kafka.connections import KafkaUnavailableError, Partition
from tradesaga.infra.outbox.ports import Brokers, ConsumerPort, make_consumer, make_producer
from tradesaga.schemas.envelope import Header

SESSION_MS = 6000
PATIENCE = 25.0
KEYS = (b"a", b"b", b"c", b"d")
"""Three belong to the first of two partitions, one to the second."""


def everything(_topic: str, _headers: Sequence[Header]) -> bool:
    """Want every record."""
    return True


@dataclass
class Member:
    """One member of a group, and what it has been told and given."""

    consumer: ConsumerPort
    told: list[str] = field(default_factory=list[str])
    slow: float = 0.0

    async def revoked(self) -> None:
        """Hear that what it had is no longer its own."""
        self.told.append("revoked")

    async def assigned(self) -> None:
        """Hear what it has now."""
        await asyncio.sleep(self.slow)
        self.told.append("assigned")

    async def read(self, count: int) -> list[Record]:
        """Poll until so many records have come."""
        found: list[Record] = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < count:
                polled = await self.consumer.poll(everything, 200, 100)
                found += [record for each in polled.values() for record in each.records]
        return found

    async def owns(self, count: int) -> set[Partition]:
        """Poll until it has so many partitions; a member that does not poll never joins anew."""
        async with asyncio.timeout(PATIENCE):
            while len(self.consumer.assignment()) != count or self.told[-1:] != ["assigned"]:
                await self.consumer.poll(everything, 100, 100)
        return self.consumer.assignment()


@dataclass(frozen=True)
class Ground:
    """A topic of two partitions, and whoever makes clients for it."""

    brokers: Brokers
    topic: str
    group: str = field(default_factory=lambda: f"group-{uuid4().hex[:8]}")

    @asynccontextmanager
    async def member(self, slow: float = 0.0, group: str = "") -> AsyncGenerator[Member]:
        """Join the group, and leave it."""
        name = f"member-{uuid4().hex[:8]}"
        consumer = make_consumer(self.brokers, group or self.group, [self.topic], name, SESSION_MS)
        member = Member(consumer, slow=slow)
        await consumer.start(member.revoked, member.assigned)
        try:
            yield member
        finally:
            await consumer.stop()

    async def send(self, *values: bytes, headers: Sequence[Header] = ()) -> None:
        """Send each value under each key, and wait for the answers."""
        producer = make_producer(self.brokers, "script")
        await producer.start()
        try:
            acks = await producer.send_all(
                [
                    Outgoing(self.topic, key.decode(), uuid4(), "", list(headers), value)
                    for value in values
                    for key in KEYS
                ]
            )
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*acks)
        finally:
            await producer.stop()


Seen = list[Any]


async def records_keep_their_order(ground: Ground) -> Seen:
    """Each key's records come in the order in which they were sent, on one partition, with all that was sent."""
    await ground.send(b"1", b"2", b"3", headers=[("h", b"v"), ("h2", b"")])
    async with ground.member() as member:
        found = await member.read(12)
    return [
        [(r.partition, r.key, r.value, [(name, value) for name, value in r.headers]) for r in found if r.key == key]
        for key in KEYS
    ]


async def what_is_not_wanted_is_passed(ground: Ground) -> Seen:
    """Unwanted records are not given, and yet the offset goes past them."""
    await ground.send(b"1")
    async with ground.member() as member:
        async with asyncio.timeout(PATIENCE):
            passed: dict[Partition, int] = {}
            while sum(passed.values()) < len(KEYS):
                polled = await member.consumer.poll(lambda topic, headers: not topic, 200, 100)
                passed |= {place: each.following for place, each in polled.items() if not each.records}
        ranges = await member.consumer.ranges([(ground.topic, 0), (ground.topic, 1)])
    return [_numbers(passed), _numbers(ranges)]


def _numbers(of: dict[Partition, Any]) -> dict[int, Any]:
    return {partition: value for (_, partition), value in sorted(of.items())}


async def seeking_reads_again(ground: Ground) -> Seen:
    """From the offset that was sought; a partition that is not ours cannot be sought."""
    await ground.send(b"1", b"2")
    async with ground.member() as member:
        before = await member.read(8)
        for number in (0, 1):
            member.consumer.seek((ground.topic, number), 1)
        after = await member.read(6)
        try:
            member.consumer.seek((ground.topic, 9), 0)
        except KafkaUnavailableError:
            refused = True
        else:
            refused = False
    return [len(before), sorted((r.partition, r.offset) for r in after), refused]


async def two_members_share(ground: Ground) -> Seen:
    """The partitions are shared out when one joins, and come back when it leaves; each is told before it has any."""
    async with ground.member() as one:
        alone = await one.owns(2)
        async with ground.member() as two:
            shares = await asyncio.gather(one.owns(1), two.owns(1))
            foreign = {(ground.topic, number): 0 for number in (0, 1)}
            taken = [await member.consumer.commit(foreign) for member in (one, two)]
            own = [
                await member.consumer.commit(dict.fromkeys(member.consumer.assignment(), 0)) for member in (one, two)
            ]
        back = await one.owns(2)
    seen = [len(alone), [len(share) for share in shares], shares[0] | shares[1] == alone, taken, own, len(back)]
    return [*seen, one.told[:2], two.told[:2], one.told.count("assigned")]


async def a_group_goes_on_where_it_was(ground: Ground) -> Seen:
    """A new member begins at what was committed, or at the beginning where nothing was."""
    await ground.send(b"1", b"2")
    async with ground.member() as member:
        await member.owns(2)
        taken = await member.consumer.commit({(ground.topic, 0): 3})
    async with ground.member() as member:
        found = await member.read(5)
    return [taken, sorted((r.partition, r.offset) for r in found)]


async def records_come_before_the_word(ground: Ground) -> Seen:
    """What has been assigned is delivered while the member is still being told of it."""
    await ground.send(b"1")
    async with ground.member(slow=3.0) as member:
        found = await member.read(4)
        told = list(member.told)
        await asyncio.sleep(3.5)
    return [len(found), told, member.told]


async def who_has_left_commits_nothing(ground: Ground) -> Seen:
    """A commit of a partition that was never assigned is not taken; one of nothing is no question."""
    async with ground.member() as member:
        await member.owns(2)
        seen = [await member.consumer.commit({(ground.topic, 7): 1}), await member.consumer.commit({})]
        behind = member.consumer.behind({})
    return [*seen, behind]


BROKER_SCRIPTS: Sequence[Callable[[Ground], Awaitable[Seen]]] = (
    records_keep_their_order,
    what_is_not_wanted_is_passed,
    seeking_reads_again,
    two_members_share,
    a_group_goes_on_where_it_was,
    records_come_before_the_word,
    who_has_left_commits_nothing,
)


def on_simulated(script: Callable[[Ground], Awaitable[Seen]]) -> Callable[[Brokers], Awaitable[Seen]]:
    """Give the script a topic of a simulated broker."""
    return partial(_with_topic, script)


async def _with_topic(script: Callable[[Ground], Awaitable[Seen]], brokers: Brokers) -> Seen:
    return await script(Ground(brokers, "contract"))
