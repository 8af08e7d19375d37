# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateImportUsage=false
"""Three brokers in place of one: what is done to "the broker" is done to the one that leads most."""

import asyncio
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Final

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.clusters.brokers import Brokers, Node, make_brokers, watch_leaders
from tests.faults.proxy import Bundle
from tests.faults.saga import NAME
from tests.faults.servers import signal_server
from tradesaga.infra.kafka.topics import TopicPolicy, ensure_topics
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.local_stack.process import stop
from tradesaga.schemas.topics import Topic, events_topic, saga_topics

HEAP: Final = "256m"
PROBE: Final = Topic(f"{NAME}-probe", "what the run itself writes to see whether it is taken", "the run", -1, 1)
_TOPICS: Final = (*saga_topics(NAME), PROBE)


class Cluster:
    """Kafka on three brokers, each with a way in for each link; two must hold a record before it counts."""

    def __init__(self, home: Path, chance: Random) -> None:
        self._home = home / "kafka"
        self._chance = chance
        self._brokers = Brokers(self._home, [], [])
        self._watching: asyncio.Task[None] | None = None
        self._leaders: dict[int, list[int]] = {}

    @property
    def bootstrap(self) -> str:
        """Give the addresses of the listeners that the run itself uses, round all proxies."""
        return self._brokers.bootstrap

    @property
    def moves(self) -> int:
        """Count how often a partition of the events was seen to get another leader."""
        return sum(max(len(seen) - 1, 0) for seen in self._leaders.values())

    def prepare(self, bundles: Mapping[str, Bundle]) -> None:
        """Choose the ports, and tell each link where its listener is; the links must listen already."""
        self._brokers = make_brokers(self._home, HEAP)
        for place, node in enumerate(self._brokers.nodes):
            doors: dict[str, tuple[int, int]] = {}
            for name, bundle in bundles.items():
                link = bundle.links[place]
                link.target = free_port()
                doors[name.upper()] = link.target, link.port
            node.doors = doors
        self._brokers.prepare()

    async def start(self) -> None:
        """Start the brokers that do not run, and wait until all answer."""
        await self._brokers.run()

    async def make_topics(self) -> None:
        """Make the saga's topics, three copies of each, and look at their leaders from now on."""
        await ensure_topics(self.bootstrap, _TOPICS, TopicPolicy(replicas=3))
        watching = watch_leaders(self.bootstrap, events_topic(NAME), self._leaders)
        self._watching = asyncio.create_task(watching, name="leaders")

    async def stop(self) -> None:
        """End all brokers, and put their logs with the others."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await asyncio.to_thread(self._brokers.stop)
        for node in self._brokers.nodes:
            log, logs = node.folder / "kafka.log", self._home.parent / "logs"
            if log.exists():
                logs.mkdir(exist_ok=True)
                log.replace(logs / f"broker-{node.number}.log")

    def leader(self) -> Node:
        """Give the broker that leads most partitions of the events, of those that run."""
        led = Counter(seen[-1] for seen in self._leaders.values() if seen)
        return max((node for node in self._brokers.nodes if node.alive), key=lambda node: led[node.number])

    async def kill(self) -> None:
        """End the leader without giving it a chance to do anything."""
        await asyncio.to_thread(self._brokers.kill, self.leader())

    async def kill_two(self) -> None:
        """End two of the three: nobody has a majority any more."""
        await asyncio.gather(
            *(asyncio.to_thread(self._brokers.kill, node) for node in self._chance.sample(self._brokers.nodes, 2))
        )

    async def retire(self) -> None:
        """Have the leader hand over what it leads, and end."""
        await asyncio.to_thread(stop, self.leader().process, signal.SIGTERM)

    async def demand(self, copies: int) -> None:
        """Have no record count before so many brokers hold it."""
        await asyncio.to_thread(_set_copies, self.bootstrap, copies)

    async def refuses(self) -> bool:
        """Say whether the brokers refuse a record because too few of them hold it."""
        return await asyncio.to_thread(_is_refused, self.bootstrap)

    def pause(self) -> None:
        """Stop the leader where it stands."""
        signal_server(self.leader().process, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let all go on."""
        for node in self._brokers.nodes:
            signal_server(node.process, signal.SIGCONT)


def _set_copies(bootstrap: str, copies: int) -> None:
    entry = ConfigEntry("min.insync.replicas", str(copies), incremental_operation=AlterConfigOpType.SET)
    wanted = [ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=[entry]) for topic in _TOPICS]
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for answer in admin.incremental_alter_configs(wanted, request_timeout=20).values():
        answer.result(30)


def _is_refused(bootstrap: str) -> bool:
    told: list[KafkaError | None] = []

    def note(error: KafkaError | None, _: Message) -> None:
        told.append(error)

    producer = Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "retries": 0, "message.timeout.ms": 5000, "log_level": 0}
    )
    producer.produce(PROBE.name, b"is it taken?", on_delivery=note)
    producer.flush(10)
    return any(error is not None and error.code() == KafkaError.NOT_ENOUGH_REPLICAS for error in told)
