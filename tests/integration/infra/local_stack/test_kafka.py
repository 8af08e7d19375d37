# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""The Kafka that the stack starts from jars which it holds to their pinned digests."""

import asyncio
import http.server
import os
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.kafka import answers, fetch_jars, jar_cache, pinned_jars, start_kafka, stop_kafka
from tradesaga.infra.local_stack.ports import free_port
from tradesaga.infra.local_stack.process import is_alive, wait_for_end
from tradesaga.infra.local_stack.state import KafkaState

pytestmark = pytest.mark.stack
LOG_APPEND_TIME = 1


async def _produce(bootstrap: str, value: bytes) -> int:
    """Send one record to the topic and give the type of its timestamp."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        return (await producer.send_and_wait("kept", value)).timestamp_type
    finally:
        await producer.stop()


async def _create(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("kept", 1, 1)])
    finally:
        await admin.close()


async def _read(bootstrap: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition("kept", 0)])
        return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


def test_records_and_port_survive_a_clean_stop_and_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record acknowledged before a stop, and one before kill -9, are both there in the end, at the same address."""
    monkeypatch.setenv("TRADESAGA_KAFKA_HEAP", "256m")
    state = start_kafka(tmp_path, KafkaState())
    try:
        asyncio.run(_create(state.bootstrap))
        assert asyncio.run(_produce(state.bootstrap, b"first")) == LOG_APPEND_TIME
        stopped = stop_kafka(state)
        assert not answers(state.port)
        again = start_kafka(tmp_path, stopped)
        assert again.bootstrap == state.bootstrap
        asyncio.run(_produce(again.bootstrap, b"second"))
        assert again.process is not None
        os.kill(again.process.pid, signal.SIGKILL)
        assert wait_for_end(again.process, 10)
        state = start_kafka(tmp_path, again)
        assert start_kafka(tmp_path, state) == state
        assert asyncio.run(_read(state.bootstrap, 2)) == [b"first", b"second"]
    finally:
        stop_kafka(state)
    assert not is_alive(state.process)


async def test_topics_are_not_made_by_accident(kafka: str) -> None:
    """A record for a topic that nobody has made is refused, so a misspelt name is noticed."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, request_timeout_ms=2000)
    await producer.start()
    try:
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait("nobody-made-this", b"")
    finally:
        await producer.stop()


def test_a_taken_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A remembered port that another program has taken is refused with exit code 5 before Java starts."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port := free_port()))
        other.listen()
        with pytest.raises(CommandError, match=str(port)) as caught:
            start_kafka(tmp_path, KafkaState(port=port))
    assert caught.value.exit_code is ExitCode.UNAVAILABLE


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder as a Maven mirror."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print nothing."""


def _fill(folder: Path, content: bytes | None) -> None:
    """Lay the pinned jars out as a mirror does, with their true bytes or all with the same wrong ones."""
    cache = jar_cache()
    fetch_jars(cache)
    for jar in pinned_jars():
        place = folder / jar.group.replace(".", "/") / jar.name / jar.version
        place.mkdir(parents=True)
        (place / jar.file_name).write_bytes(content or (cache / jar.file_name).read_bytes())


def test_missing_and_damaged_jars_are_fetched_again(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jar cut short in the cache is noticed by its digest and replaced; the rest is left alone."""
    _fill(mirror[0], None)
    monkeypatch.setenv("TRADESAGA_MAVEN_MIRROR", mirror[1])
    cache = tmp_path / "cache"
    first, *rest = fetch_jars(cache)
    assert len(rest) + 1 == len(pinned_jars())
    times = [path.stat().st_mtime_ns for path in rest]
    first.write_bytes(first.read_bytes()[:100])
    fetch_jars(cache)
    assert first.stat().st_size > 100
    assert [path.stat().st_mtime_ns for path in rest] == times
    assert {path.suffix for path in cache.iterdir()} == {".jar"}


def test_an_altered_download_is_refused(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes other than the pinned ones never reach the cache."""
    _fill(mirror[0], b"not a jar")
    monkeypatch.setenv("TRADESAGA_MAVEN_MIRROR", mirror[1])
    with pytest.raises(CommandError) as caught:
        fetch_jars(tmp_path / "cache")
    assert caught.value.code == "download-altered"
    assert not list((tmp_path / "cache").glob("*.jar"))


def test_a_failed_download_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, the jar that is missing is named, with exit code 5."""
    monkeypatch.setenv("TRADESAGA_MAVEN_MIRROR", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(CommandError, match="could not be downloaded") as caught:
        fetch_jars(tmp_path / "cache")
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
