"""E: records come again and out of order, bars come first, poison comes, clocks jump, and two versions run at once."""

import asyncio
from uuid import UUID, uuid4

from tests.faults.evidence import COMMANDS, EVENTS, read_topics
from tests.faults.load import OURS
from tests.faults.phases.poison import Poison, poisons
from tests.faults.saga import NAME
from tests.faults.servers import find_faketime
from tests.faults.stage import Stage
from tradesaga.infra.clock import SystemClock, format_time, new_id
from tradesaga.infra.kafka.connections import KafkaUnavailableError
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.lifecycle import Bar
from tradesaga.schemas.messages.message import Command, Message, wire_type
from tradesaga.schemas.topics import commands_topic, events_topic

REPLAYED = 0.05
MOST_REPLAYED = 1500
JUMP = 300
SHORT_JUMP = 20
"""Seconds; what falls due by PostgreSQL's clock is late by as much when it jumps back, and a call whose expiry was set
by a clock that was ahead is not believed lost before that expiry."""
BARRED_STEPS = ("reserve", "charge", "order", "fill")


async def replay_old_records(stage: Stage) -> None:
    """Put one old fact or command in twenty on its topic again, byte for byte, in any order."""
    records = await asyncio.to_thread(read_topics, stage.broker.bootstrap, (EVENTS, COMMANDS))
    chosen = [record for record in records if record.key is not None and stage.chance.random() < REPLAYED]
    chosen = stage.chance.sample(chosen, min(len(chosen), MOST_REPLAYED))
    async with stage.fault(f"{len(chosen)} old records again, shuffled"):
        sends = [
            stage.clients.sender.send(record.topic, record.key or b"", record.value, list(record.headers))
            for record in chosen
        ]
        results = await asyncio.gather(*sends, return_exceptions=True)
    stage.notes.replayed += sum(result is None for result in results)


async def bar_first(stage: Stage) -> None:
    """Bar steps of sagas that nobody knows yet, then start those sagas."""
    count = 3 if stage.short else 10
    async with stage.fault(f"{count} bars before their sagas"):
        await asyncio.gather(*(_bar_one(stage, stage.chance.choice(BARRED_STEPS)) for _ in range(count)))


async def _bar_one(stage: Stage, step: str) -> None:
    request = stage.clients.begin({})
    stage.notes.strangers.add(request.saga_id)
    if await speak(stage, request.id, Bar(step=step), step):
        stage.notes.barred += 1
    await asyncio.sleep(0.5)
    await stage.clients.pursue(request)


async def poison(stage: Stage) -> None:
    """Plant records that nobody can read, some of them in the middle of a living saga."""
    kinds = poisons(stage.chance)
    async with stage.fault(f"{len(kinds)} poisons"):
        await asyncio.gather(*(_plant(stage, kind) for kind in kinds))


async def _plant(stage: Stage, kind: Poison) -> None:
    saga_id = uuid4()
    if kind.living:
        request = stage.clients.begin({})
        await stage.clients.pursue(request)
        saga_id = request.id
    stage.notes.strangers.add(str(saga_id))
    name = str(new_id())
    topic, key, value, headers = kind.make(saga_id, name)
    sender = stage.clients.sender.another() if kind.too_large else stage.clients.sender
    try:
        await sender.send(topic, key, value, headers)
    except KafkaUnavailableError:
        if not kind.too_large:
            raise
        stage.notes.refused_large += 1
    else:
        stage.notes.planted[name] = kind.name
    finally:
        if sender is not stage.clients.sender:
            await sender.stop()


async def jump_clocks(stage: Stage) -> None:
    """Set the clocks of processes off by five minutes, ahead or behind, and back."""
    members = stage.crew.of("desk", "market", "log", "front")
    ahead = {"market": SHORT_JUMP}
    offsets = {m.name: stage.chance.choice([-JUMP, 0, ahead.get(m.service, JUMP)]) for m in members}
    async with stage.fault(f"clocks jump by {JUMP} s"):
        for member in members:
            member.clock.write_text(str(offsets[member.name]))
        await asyncio.sleep(4.0 if stage.short else 8.0)
        for member in members:
            member.clock.write_text("0")


async def jump_database_clock(stage: Stage) -> None:
    """Set PostgreSQL's clock off by five minutes, and back."""
    if not find_faketime():
        stage.notes.untried.append("PostgreSQL's clock: Debian's faketime is not installed")
        return
    jump = stage.chance.choice([-SHORT_JUMP, SHORT_JUMP])
    async with stage.fault(f"PostgreSQL's clock jumps by {jump:+d} s"):
        stage.database.jump(jump)
        await asyncio.sleep(4.0 if stage.short else 8.0)
        stage.database.jump(0)


async def mix_versions(stage: Stage) -> None:
    """Deploy version 2 of the definition to half of the desks and saga logs, then take it back."""
    members = [stage.crew.members["desk2"], stage.crew.members["log2"]]
    async with stage.fault("versions 1 and 2 at once"):
        stage.notes.mixed_versions = True
        for member in members:
            stage.crew.redeploy(member, 2)
        await asyncio.sleep(8.0 if stage.short else 14.0)
        for member in members:
            stage.crew.redeploy(member, 1)


async def speak(stage: Stage, saga_id: UUID, message: Message, step: str = "") -> bool:
    """Put a fact or command of the run's own on its topic; False if nobody knows whether it is there."""
    envelope = Envelope(
        type=wire_type(NAME, type(message)), id=str(new_id()), source=f"{OURS}{message.NAME}", saga_id=str(saga_id),
        time=format_time(SystemClock().now()), step=step,
    )  # fmt: skip
    topic = commands_topic(NAME) if isinstance(message, Command) else events_topic(NAME)
    try:
        await stage.clients.sender.send(topic, str(saga_id).encode(), message.to_wire(), envelope.to_headers())
    except KafkaUnavailableError:
        return False
    return True
