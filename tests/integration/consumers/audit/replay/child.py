"""A replay that is killed on its way: `python -m tests.integration.consumers.audit.replay.child SAGA FILE BATCHES`.

Everything that was read is saved but the last batch, after which the process kills itself.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.sagas import small_saga
from tradesaga.consumers.audit.replay.comparison import Comparison
from tradesaga.consumers.audit.replay.state import Identity, ProgressReporter, ReplayState
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.kafka.admin import read_cluster_id
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.postgres.database import session
from tradesaga.infra.settings import load_settings


async def main(saga: str, path: Path, batches: int, partitions: int) -> None:
    """Compare until so many batches have been read."""
    settings = load_settings()
    rules = Rules(small_saga(saga), partitions)
    cluster, left = await read_cluster_id(settings.brokers()), batches
    with ReplayState(path, Identity.of(rules, cluster, "comparison"), rules) as replay_state:

        def advance(count: int) -> None:
            nonlocal left
            left -= count > 0
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            if count:
                replay_state.save()

        async with session(settings.database_for()) as sql, TopicReader(settings.brokers()) as topics:
            await Comparison(sql, topics, rules, replay_state, ProgressReporter(lambda _: None, advance)).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
