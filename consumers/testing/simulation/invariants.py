"""The invariants that every schedule is checked for at its end: of tables, topics and the far side."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from uuid import UUID

import orjson

from tradesaga.consumers.testing.simulation.processes import rules_of
from tradesaga.consumers.testing.simulation.world import StartedSaga, World
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.saga_queries import decode_progress
from tradesaga.sagas.machine import Machine, State
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import ID
from tradesaga.schemas.topics import dead_letters_topic, events_topic, installation_topic

_ENDED = {Status.COMPLETED, Status.ABORTED, Status.FAILED}


def machine_of(world: World) -> Machine:
    """Return the state machine of the saga."""
    return rules_of(world.simulated.saga, world.broker.partitions).machine


def state_of(world: World, saga_id: UUID) -> State | None:
    """Return the state in the saga's checkpoint."""
    row = world.database.tables["saga"].get((saga_id,))
    return decode_progress(machine_of(world), row["progress"]) if row is not None else None


def unfinished(world: World) -> list[str]:
    """Return a line for each unfinished saga, step and lane."""
    rows = world.database.tables["step_execution"].items()
    steps = [f"step {key[1]} has a due time" for key, (_, due) in rows if due]
    return [*_open_sagas(world), *steps, *_open_lanes(world)]


def _open_sagas(world: World) -> Iterator[str]:
    for number, saga in enumerate(world.sagas):
        row = world.database.tables["saga"].get((saga.saga_id,))
        if row is None or Status(row["state"]) not in _ENDED:
            yield f"saga {number} is {row['state'] if row is not None else 'unknown'}"


def _open_lanes(world: World) -> Iterator[str]:
    lanes = world.database.tables["lane"]
    for group in world.broker.groups.values():
        for topic in {topic for member in group.members for topic in member.topics}:
            for number in range(world.broker.partitions):
                lane = lanes.get((group.name, topic, number))
                end = len(world.broker.log(topic, number))
                if lane is None or lane["next_offset"] != end:
                    yield f"{group.name} is at {lane and lane['next_offset']} of {end} on {topic}[{number}]"
                elif lane["published_seq"] != lane["last_seq"]:
                    yield f"{group.name} has unpublished rows of {topic}[{number}]"


def check(world: World) -> list[str]:
    """Return every violated invariant."""
    found = [each for slot in world.processes.slots for each in slot.failures]
    for number, saga in enumerate(world.sagas):
        found += [f"saga {number} ({getattr(saga.start, 'plan', '')}): {each}" for each in _check_saga(world, saga)]
    found += world.database.stale
    for log in world.broker.logs.get(dead_letters_topic(world.simulated.saga.name), ()):
        found += [f"record {record.header('ce_type').decode()} is a dead letter" for record in log]
    return [*found, *_check_epochs(world), *_check_outbox(world), *_check_audit(world)]


def _check_saga(world: World, saga: StartedSaga) -> Iterator[str]:
    row = world.database.tables["saga"][saga.saga_id,]
    status, state = Status(row["state"]), state_of(world, saga.saga_id)
    if state is None:
        return
    if status is Status.FAILED and not world.simulated.stuck(saga.start):
        yield f"it is FAILED, although no planted failure explains that: {state}"
    effects = [each for each in world.database.effects if each.effect[0] == saga.saga_id]
    counts = Counter(each.effect[1:] for each in effects)
    done, compensated = (set(orjson.loads(row[name])) for name in ("completed_steps", "compensated_steps"))
    if status is Status.COMPLETED and compensated:
        yield f"it is COMPLETED, but {sorted(compensated)} were compensated"
    for step in world.simulated.saga.steps:
        name = step.name
        effects_of_step = counts[name, "forward"], counts[name, "back"]
        yield from _check_step(name, status, effects_of_step, (name in done, name in compensated))
    yield from _check_order(world, [each.effect[1] for each in effects if each.effect[2] == "back"])
    yield from _check_far_side(world, saga, done)


def _check_step(name: str, status: Status, effects: tuple[int, int], recorded: tuple[bool, bool]) -> Iterator[str]:
    (forward, back), (done, compensated) = effects, recorded
    if forward > 1 or back > 1:
        yield f"{name} has taken effect {forward} times, and was compensated {back} times"
    if back > forward:
        yield f"{name} was compensated, but had not taken effect"
    if forward and not done:
        yield f"{name} has taken effect, but the saga does not know it"
    if back != compensated and forward:
        yield f"{name} was compensated {back} times; compensated in the saga: {compensated}"
    if status is Status.ABORTED and forward != back:
        yield f"it is ABORTED, but the effect of {name} remains"


def _check_order(world: World, backwards: list[str]) -> Iterator[str]:
    order = {step.name: index for index, step in enumerate(world.simulated.saga.steps)}
    if backwards != sorted(backwards, key=lambda name: -order[name]):
        yield f"it was not compensated in reverse order: {backwards}"


def _check_far_side(world: World, saga: StartedSaga, done: set[str]) -> Iterator[str]:
    """Compare waiting steps with the effects at the far side."""
    filled = any(each.saga_id == saga.saga_id and each.state == "filled" for each in world.far.effects.values())
    for step in world.simulated.saga.steps:
        if step.waits_for is not None and filled != (step.name in done):
            yield f"filled at the far side: {filled}; {step.name} done in the saga: {step.name in done}"


def _check_epochs(world: World) -> Iterator[str]:
    """Check that the effects of each lane were committed under epochs that never decrease."""
    latest: dict[int, int] = {}
    for each in world.database.effects:
        for lane, epoch in each.epochs.items():
            if epoch < latest.get(lane, 0):
                yield f"lane {lane}: effect {each.effect[1:]} under epoch {epoch} after {latest[lane]}"
            latest[lane] = max(epoch, latest.get(lane, 0))


def _check_audit(world: World) -> Iterator[str]:
    """Check that the audit log has one row for each record, by offset, under epochs that never decrease."""
    topic = events_topic(world.simulated.saga.name)
    rows = world.database.tables["saga_event"].values()
    for number in range(world.broker.partitions):
        mine = [row for row in rows if row["topic"] == topic and row["partition"] == number]
        offsets = [row["offset"] for row in mine]
        if offsets != list(range(len(world.broker.log(topic, number)))):
            yield f"{topic}[{number}]: the audit log holds offsets {offsets}"
        epochs = [row["writer_epoch"] for row in mine]
        if epochs != sorted(epochs):
            yield f"{topic}[{number}]: the audit log was written under epochs {epochs}"


def _check_outbox(world: World) -> Iterator[str]:
    """Check that every outbox row is on its topic in the order of its lane, and every record in an outbox."""
    places = _first_places(world)
    rows = sorted(world.database.tables["outbox"].items())
    written = Counter((row["aggregatetype"], str(row["id"]).encode()) for _, row in rows)
    last: dict[tuple[int, str, int], int] = {}
    for (lane, seq, _), row in rows:
        name = (row["aggregatetype"], str(row["id"]).encode())
        record = places.get(name)
        if record is None or record.value != row["payload"]:
            yield f"outbox row {lane}/{seq} ({row['type']}) is not on {row['aggregatetype']}"
        elif written[name] == 1:  # a repeated answer may have an earlier place
            place = (lane, record.topic, record.partition)
            if record.offset < last.get(place, -1):
                yield f"outbox row {lane}/{seq} ({row['type']}) is on the topic before one of a lower number"
            last[place] = record.offset
    for name in places.keys() - written.keys():
        if name[1] not in world.outsiders and name[0] != installation_topic(world.simulated.saga.name):
            yield f"record {places[name].header('ce_type').decode()} is on {name[0]}, but in no outbox"


def _first_places(world: World) -> dict[tuple[str, bytes], Record]:
    places: dict[tuple[str, bytes], Record] = {}
    for record in chain.from_iterable(chain.from_iterable(world.broker.logs.values())):
        places.setdefault((record.topic, record.header(ID)), record)
    return places
