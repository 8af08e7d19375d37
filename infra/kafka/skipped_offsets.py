"""Recreates, in a log that is rewritten, offsets that Kafka delivers to no reader of committed records.

Transactions leave them: each ends with a control record, and an aborted one leaves its data records as well.
"""

import asyncio
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.codec import Record, publishable
from tradesaga.infra.kafka.connections import MappedProducer, Place
from tradesaga.infra.kafka.errors import translated_errors

LARGEST: Final = 5000
"""Maximum number of offsets that one transaction occupies."""
_FILLER: Final = b"in the place of offsets that a transaction took before this topic was written anew"


class TransactionWriter:
    """Writes single transactions while it is entered; connects for the first one. Raises `KafkaUnavailableError`.

    Data records get the time `recorded_ms`; the control record gets the broker's.
    """

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._opened: MappedProducer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.stop()

    async def commit(self, record: Record) -> None:
        """Write a record at its offset and skip the next one."""
        await self._transact([record], commits=True)

    async def skip(self, place: Place, first: int, count: int, recorded_ms: int) -> None:
        """Skip `count` offsets, at least two, from `first` on."""
        while count:
            taken = count if count <= LARGEST else min(LARGEST, count - 2)
            fillers = [
                Record(*place, first + number, recorded_ms, None, _FILLER, []) for number in range(taken - 1)
            ]  # fmt: skip
            await self._transact(fillers, commits=False)
            first, count = first + taken, count - taken

    async def _transact(self, records: list[Record], *, commits: bool) -> None:
        with translated_errors("a transaction failed"):
            producer = await self._producer()
            await producer.begin_transaction()
            sent = [await _send(producer, record) for record in records]
            written = await asyncio.gather(*sent)
            await (producer.commit_transaction() if commits else producer.abort_transaction())
        for record, landed in zip(records, written, strict=True):
            if landed.offset != record.offset:
                what = f"a record of offset {record.offset} was written at {landed.offset}: another writer is active"
                do = "stop all writers, delete the topics, and run this again"
                where = f"{landed.topic}[{landed.partition}]"
                raise CommandError("offset-taken", what, where, do, ExitCode.REFUSED)

    async def _producer(self) -> MappedProducer:
        if self._opened is None:
            self._opened = MappedProducer(
                self._brokers,
                client_id="tradesaga-rewriter",
                transactional_id=f"tradesaga-rewriter-{uuid4().hex}",
                request_timeout_ms=20_000,
            )
            await self._opened.start()
        return self._opened


async def _send(producer: MappedProducer, record: Record) -> "asyncio.Future[Any]":
    return await producer.send(
        record.topic,
        None if record.tombstone else record.value,
        key=record.key,
        headers=publishable(record.headers),
        partition=record.partition,
        timestamp_ms=record.recorded_ms,
    )
