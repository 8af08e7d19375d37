"""What is broken when: the phases in their order, and how long each of them lasts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.phases import Act, clusters, crash, data, database, disk, network, zombie
from tests.faults.stage import Stage


@dataclass(frozen=True, slots=True)
class Phase:
    """Acts of one kind: those of `first` are done in any case, `more` for as long as the phase has time left."""

    letter: str
    name: str
    share: float
    first: Sequence[Act]
    more: Sequence[Act] = ()


FULL: Final = (
    Phase("A", "crash", 0.24, (crash.kill_at_every_failpoint, crash.kill_exchange),
          (crash.kill_anybody, crash.kill_at_failpoints)),
    Phase("B", "zombies", 0.18, (zombie.stop_at_points, zombie.stop_anywhere, zombie.stop_between_batches),
          (zombie.stop_at_points, zombie.stop_anywhere)),
    Phase("C", "PostgreSQL", 0.14, (database.stop_immediately, database.swallow_commits, database.terminate_sessions,
          database.be_slow), (database.swallow_commits, database.terminate_sessions, database.stop_immediately)),
    Phase("D", "Kafka and network", 0.24, (network.kill_broker, network.pause_broker, network.cut_from_kafka,
          network.cut_from_postgres, network.lose_acks, network.black_hole), (network.cut_from_kafka,)),
    Phase("E", "data", 0.14, (data.replay_old_records, data.bar_first, data.poison, data.jump_clocks,
          data.jump_database_clock, data.mix_versions), (data.replay_old_records,)),
    Phase("F", "disk", 0.06, (disk.fill_disk,)),
)  # fmt: skip
SHORT: Final = (
    Phase("A", "crash", 0.0, (crash.kill_at_failpoints, crash.kill_at_failpoints, crash.kill_at_failpoints)),
    Phase("B", "zombies", 0.0, (zombie.stop_at_points,)),
    Phase("C", "PostgreSQL", 0.0, (database.stop_immediately, database.swallow_commits)),
    Phase("D", "Kafka and network", 0.0, (network.kill_broker, network.cut_from_kafka)),
    Phase("E", "data", 0.0, (data.bar_first, data.poison, data.replay_old_records, data.jump_clocks)),
    Phase("F", "disk", 0.0, (disk.fill_disk,)),
)  # fmt: skip

_STOP = (zombie.stop_at_points, zombie.stop_anywhere)
CLUSTERS: Final = (
    Phase("A", "crash", 0.16, (crash.kill_at_every_failpoint, crash.kill_exchange),
          (crash.kill_at_failpoints, crash.kill_anybody)),
    Phase("B", "zombies", 0.13, (zombie.stop_at_points, zombie.stop_between_batches), _STOP),
    Phase("C", "PostgreSQL and its standby", 0.16, (clusters.fail_over, clusters.pause_standby,
          database.stop_immediately, database.swallow_commits, database.terminate_sessions),
          (clusters.fail_over, database.swallow_commits, database.be_slow)),
    Phase("D", "three brokers and network", 0.26, (network.kill_broker, network.pause_broker, clusters.move_leaders,
          clusters.demand_all_copies, clusters.kill_two_brokers, clusters.cut_from_one_broker, network.lose_acks,
          network.black_hole), (network.kill_broker, network.cut_from_kafka, network.cut_from_postgres)),
    Phase("E", "data", 0.10, (data.replay_old_records, data.bar_first, data.poison, data.jump_clocks,
          data.jump_database_clock, data.mix_versions)),
    Phase("F", "disk", 0.05, (disk.fill_disk, clusters.fail_over)),
)  # fmt: skip
SHORT_CLUSTERS: Final = (
    Phase("A", "crash", 0.0, (crash.kill_at_failpoints,)),
    Phase("B", "zombies", 0.0, (zombie.stop_at_points,)),
    Phase("C", "PostgreSQL and its standby", 0.0, (clusters.fail_over, database.swallow_commits, database.be_slow)),
    Phase("D", "three brokers and network", 0.0, (network.kill_broker, clusters.demand_all_copies)),
    Phase("E", "data", 0.0, (data.bar_first, data.poison, data.replay_old_records)),
)  # fmt: skip


def choose(*, short: bool, clusters: bool) -> tuple[Phase, ...]:
    """Give the phases of a run."""
    if clusters:
        return SHORT_CLUSTERS if short else CLUSTERS
    return SHORT if short else FULL


async def play(stage: Stage, seconds: float) -> None:
    """Play all phases; `seconds` is what they may take together, beyond what each does in any case.

    Raises `CommandError` (exit 5) once the exchange has ended by itself.
    """
    for phase in choose(short=stage.short, clusters=stage.notes.clusters):
        stage.watch.phase = f"{phase.letter} {phase.name}"
        until = time.monotonic() + seconds * phase.share
        acts = list(phase.first)
        stage.chance.shuffle(acts)
        for act in acts:
            await _perform(act, stage)
        while phase.more and time.monotonic() < until:
            await _perform(stage.chance.choice(phase.more), stage)


async def _perform(act: Act, stage: Stage) -> None:
    await act(stage)
    stage.exchange.check()
