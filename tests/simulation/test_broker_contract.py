"""The simulated Kafka and the real one say the same to the same scripts."""

from collections.abc import Awaitable, Callable

import pytest

from tests.broker import temporary_topic
from tests.simulation.broker_scripts import BROKER_SCRIPTS, Ground, Seen, on_simulated
from tests.simulation.rigs import PARTITIONS, sim_brokers, simulate


@pytest.mark.stack
@pytest.mark.parametrize("script", BROKER_SCRIPTS, ids=lambda script: script.__name__)
async def test_both_say_the_same(script: Callable[[Ground], Awaitable[Seen]], kafka: str) -> None:
    """What a script sees of the simulated broker is what it sees of Kafka."""
    with temporary_topic(kafka, "contract", PARTITIONS) as topic:
        real = await script(Ground(kafka, topic))

    assert simulate(on_simulated(script), sim_brokers) == real
