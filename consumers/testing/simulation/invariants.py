"""What must be true at the end, whatever went wrong: asked of the tables, the topics and the far side."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

import orjson

from tradesaga.consumers.testing.simulation.processes import rules_of
from tradesaga.consumers.testing.simulation.world import Started, World
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.saga_queries import decode_progress
from tradesaga.sagas.machine import Machine, State
from tradesaga.sagas.status import Status
from tradesaga.schemas.envelope import ID
from tradesaga.schemas.topics import dead_letters_topic, events_topic, installation_topic

_ENDED = {Status.COMPLETED, Status.ABORTED, Status.FAILED}


def machine_of(world: World) -> Machine:
    """Return the saga's rules."""
    return rules_of(world.simulated.saga, world.broker.partitions).machine


def state_of(world: World, saga_id: UUID) -> State | None:
    """Return what the checkpoint holds."""
    row = world.database.tables["saga"].get((saga_id,))
    return decode_progress(machine_of(world), row["progress"]) if row is not None else None


def unfinished(world: World) -> list[str]:
    """Return what is still unfinished."""
    left = [f"saga {number} is {status}" for number, status in _open_sagas(world)]
    left += [
        f"step {key[1]} has a due time" for key, (_, due) in world.database.tables["step_execution"].items() if due
    ]
    left += list(_open_lanes(world))
    return left


def _open_sagas(world: World) -> Iterator[tuple[int, str]]:
    for number, saga in enumerate(world.sagas):
        row = world.database.tables["saga"].get((saga.saga_id,))
        if row is None or Status(row["state"]) not in _ENDED:
            yield number, row["state"] if row is not None else "not known"


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
                    yield f"{group.name} has not published all of {topic}[{number}]"


def check(world: World) -> list[str]:
    """Return every violated invariant."""
    found = [each for slot in world.processes.slots for each in slot.failures]
    for number, saga in enumerate(world.sagas):
        found += [f"saga {number} ({getattr(saga.start, 'plan', '')}): {each}" for each in _check_saga(world, saga)]
    found += world.database.stale
    found += [f"record {record.header('ce_type').decode()} is a dead letter" for record in _dead_letters(world)]
    found += _check_epochs(world)
    found += _check_outbox(world)
    found += _check_audit(world)
    return found


def _dead_letters(world: World) -> Iterator[Record]:
    """List what nobody could read: nothing unreadable was ever sent."""
    for log in world.broker.logs.get(dead_letters_topic(world.simulated.saga.name), ()):
        yield from log


def _check_saga(world: World, saga: Started) -> Iterator[str]:
    row = world.database.tables["saga"][saga.saga_id,]
    status, state = Status(row["state"]), state_of(world, saga.saga_id)
    if state is None:
        return
    if status is Status.FAILED and not world.simulated.stuck(saga.start):
        yield f"it is FAILED, and nothing that was planted is the cause: {state}"
    effects = [each for each in world.database.effects if each.effect[0] == saga.saga_id]
    counts = Counter(each.effect[1:] for each in effects)
    done, compensated = (set(orjson.loads(row[name])) for name in ("completed_steps", "compensated_steps"))
    if status is Status.COMPLETED and compensated:
        yield f"it is COMPLETED, and {sorted(compensated)} were taken back"
    for step in world.simulated.saga.steps:
        forward, back = counts[step.name, "forward"], counts[step.name, "back"]
        knows = step.name in done, step.name in compensated
        yield from _check_step(step.name, status, (forward, back), knows)
    yield from _check_order(world, [each.effect[1] for each in effects if each.effect[2] == "back"])
    yield from _check_far_side(world, saga, done)


def _check_step(name: str, status: Status, effects: tuple[int, int], knows: tuple[bool, bool]) -> Iterator[str]:
    (forward, back), (done, compensated) = effects, knows
    if forward > 1 or back > 1:
        yield f"{name} has had its effect {forward} times, and been taken back {back} times"
    if back > forward:
        yield f"{name} was taken back without ever having been done"
    if forward and not done:
        yield f"{name} has had its effect, and the saga does not know it"
    if back != compensated and forward:
        yield f"{name} was taken back {back} times; the saga says {compensated}"
    if status is Status.ABORTED and forward != back:
        yield f"it is ABORTED, and {name} stands"


def _check_order(world: World, backwards: list[str]) -> Iterator[str]:
    order = {step.name: index for index, step in enumerate(world.simulated.saga.steps)}
    if backwards != sorted(backwards, key=lambda name: -order[name]):
        yield f"it was not taken back last first: {backwards}"


def _check_far_side(world: World, saga: Started, done: set[str]) -> Iterator[str]:
    """Check waiting steps against the far side's orders."""
    filled = any(order.saga_id == saga.saga_id and order.state == "filled" for order in world.far.orders.values())
    for step in world.simulated.saga.steps:
        if step.waits_for is not None and filled != (step.name in done):
            yield f"the far side says filled: {filled}; the saga says {step.name} is done: {step.name in done}"


def _check_epochs(world: World) -> Iterator[str]:
    """Effects come under epochs that never go back, and the audit log was written under such."""
    latest: dict[int, int] = {}
    for each in world.database.effects:
        for lane, epoch in each.epochs.items():
            if epoch < latest.get(lane, 0):
                yield f"lane {lane}: effect {each.effect[1:]} under epoch {epoch} after {latest[lane]}"
            latest[lane] = max(epoch, latest.get(lane, 0))


def _check_audit(world: World) -> Iterator[str]:
    """One audit row a record, in the order of offsets, under epochs that never go back."""
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
    """Every outbox row is on its topic, in its lane's order; and nothing is there that was never written."""
    places = _first_places(world)
    rows = sorted(world.database.tables["outbox"].items())
    said = Counter((row["aggregatetype"], str(row["id"]).encode()) for _, row in rows)
    last: dict[tuple[int, str, int], int] = {}
    for (lane, seq, _), row in rows:
        name = (row["aggregatetype"], str(row["id"]).encode())
        record = places.get(name)
        if record is None or record.value != row["payload"]:
            yield f"outbox row {lane}/{seq} ({row['type']}) is not on {row['aggregatetype']}"
        elif said[name] == 1:  # what was said again may stand further ahead
            place = (lane, record.topic, record.partition)
            if record.offset < last.get(place, -1):
                yield f"outbox row {lane}/{seq} ({row['type']}) stands before one of a lower number"
            last[place] = record.offset
    for name in places.keys() - said.keys():
        if name[1] not in world.outsiders and name[0] != installation_topic(world.simulated.saga.name):
            yield f"record {places[name].header('ce_type').decode()} is on {name[0]}, and in no outbox"


def _first_places(world: World) -> dict[tuple[str, bytes], Record]:
    places: dict[tuple[str, bytes], Record] = {}
    for topic, logs in world.broker.logs.items():
        for log in logs:
            for record in log:
                places.setdefault((topic, record.header(ID)), record)
    return places
