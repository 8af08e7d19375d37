"""The sealer's look at what Kafka has of its seals: a database that was set back, or is another one, is not sealed."""

from collections.abc import Mapping
from typing import Final

from tradesaga.consumers.audit.log import store
from tradesaga.consumers.audit.seal.partition_log import HistoryError
from tradesaga.infra.audit_log.checkpoint import Checkpoint, parse_unverified
from tradesaga.infra.audit_log.seals import SealTrust, find_sealed_ahead, read_seals
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.identity import open_inspector
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.outbox.guard_rules import sealed_ahead
from tradesaga.infra.postgres.database import Connection

_SAME_SIZE: Final = """
SELECT c.topic, c.partition, c.note FROM audit_checkpoint c
JOIN unnest($1::text[], $2::int[], $3::bigint[]) AS k (topic, partition, size) USING (topic, partition, size)
"""


async def check_topics(sql: Connection, brokers: str, topics: Mapping[str, str], trust: SealTrust) -> None:
    """Hold the database against the last checkpoints on Kafka; `topics` are those of facts, by saga.

    Raises `HistoryError` where the saga log has read less than was sealed, or a checkpoint of as many records has
    another root; `KafkaUnavailableError`.
    """
    seals: dict[Place, Checkpoint] = {}
    async with open_inspector(brokers) as inspector:
        for saga in topics:
            seals |= await read_seals(inspector, saga, trust)
        there = await inspector.topics(sorted({topic for topic, _ in seals}))
        places = [place for place in seals if place[0] in there and place[1] < there[place[0]].partitions]
        ends = {place: end for place, (_, end) in (await inspector.ranges(places)).items()}
    read = await store.read_ends(sql)
    if (ahead := find_sealed_ahead(seals, read, ends)) is not None:
        place, sealed = ahead
        where = f"{Cluster.parse(brokers).physical(place[0])}[{place[1]}]"
        raise HistoryError(sealed_ahead(where, sealed, read.get(place, 0)))
    columns = [topic for topic, _ in seals], [number for _, number in seals], [each.size for each in seals.values()]
    for topic, partition, note in await sql.fetch(_SAME_SIZE, *columns):
        seal = seals[topic, partition]
        if parse_unverified(note).root != seal.root:
            raise HistoryError(
                f"{seal.origin}: the database's checkpoint of {seal.size} records is not the one on Kafka; find the "
                f"records that differ with `tradesaga audit verify --topics`, then stop every service and rebuild the "
                f"database with `tradesaga recover database`"
            )
