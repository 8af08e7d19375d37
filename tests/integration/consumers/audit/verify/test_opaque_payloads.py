"""The seal covers bytes as they are stored: payloads that nobody can read any more leave every proof as it was."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.integration.consumers.audit.command import run_audit
from tests.integration.consumers.saga_log.rig import PARTITIONS, Rig, open_rig
from tests.merkle_tree import Tree
from tests.sagas import Filled, Held, OrderAsked, Placed, Settled, headers_of
from tradesaga.consumers.audit.log.log_check import Report
from tradesaga.consumers.audit.seal.sealer import Sealer
from tradesaga.consumers.audit.verify.topics import TopicVerifier
from tradesaga.infra.audit_log.clock_evidence import UNKNOWN
from tradesaga.infra.audit_log.merkle import check_inclusion, hash_leaf
from tradesaga.infra.audit_log.note import public_path, read_signer, read_trusted, write_new
from tradesaga.infra.audit_log.witness import WitnessFile
from tradesaga.infra.kafka.topic_reader import TopicReader
from tradesaga.infra.kafka.topics import read_removals
from tradesaga.infra.postgres.database import session
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.messages.message import Event

pytestmark = [pytest.mark.stack, pytest.mark.asyncio]
NONCE = 12
SEALED = b"\xc1"
"""Begins a payload that is none to read; no text in UTF-8 has it."""


@dataclass
class Vault:
    """Each subject's key, for as long as it is kept."""

    keys: dict[UUID, AESGCM] = field(default_factory=dict[UUID, AESGCM])

    def close(self, saga_id: UUID, event: Event) -> bytes:
        """Encrypt a payload with AES-256-GCM, under the subject's own key."""
        key = self.keys.setdefault(saga_id, AESGCM(AESGCM.generate_key(256)))
        nonce = os.urandom(NONCE)
        return SEALED + nonce + key.encrypt(nonce, event.to_wire(), saga_id.bytes)

    def open(self, saga_id: UUID, payload: bytes) -> bytes:
        """Decrypt a payload; raises `KeyError` once the key is shredded."""
        nonce, closed = payload[1 : 1 + NONCE], payload[1 + NONCE :]
        return self.keys[saga_id].decrypt(nonce, closed, saga_id.bytes)


@dataclass
class Trail:
    """A saga's topic and audit log with readable and opaque payloads, sealed."""

    rig: Rig
    folder: Path
    vault: Vault = field(default_factory=Vault)
    opaque: list[UUID] = field(default_factory=list[UUID])

    async def fill(self) -> None:
        """Tell sagas in the clear, sagas whose outcomes are ciphertext, and sagas that are nothing else."""
        plain: list[Event] = [OrderAsked(idempotency_key="k", account="A"), Held(), Placed(), Filled(), Settled()]
        async with self.rig.running():
            for number in range(9):
                saga_id = uuid4()
                for place, event in enumerate(plain):
                    hidden = number % 3 == 2 or (number % 3 == 1 and place > 1)
                    value = self.vault.close(saga_id, event) if hidden else event.to_wire()
                    headers: list[Header] = headers_of(self.rig.saga, event, saga_id)
                    await self.rig.put(self.rig.topic("events"), str(saga_id).encode(), value, headers)
                    self.opaque += [saga_id] if hidden else []
            await self.rig.recorded(9 * len(plain))
        await self.seal()

    async def seal(self) -> None:
        """Sign what is there."""
        key = self.folder / "audit.key"
        write_new(key, "test")
        groups = {f"{self.rig.saga.name}-log": self.rig.topic("events")}
        witness = WitnessFile(self.folder / "witness.jsonl")
        async with session(self.rig.url) as sql:
            sealer = Sealer(read_signer(key), read_trusted([public_path(key)]), "test", groups, witness)
            await sealer.open(sql)
            assert await sealer.seal(sql, UNKNOWN)

    async def verify_topic(self) -> Report:
        """Verify the topic itself, by what the witness has seen of it."""
        events, checkpoints = self.rig.topic("events"), self.rig.topic("checkpoints")
        async with TopicReader(self.rig.kafka) as topics:
            return await TopicVerifier(
                topics, [self.rig.rules], "test", "here", read_trusted([public_path(self.folder / "audit.key")]),
                self._witnessed,
                noted=[(checkpoints, number) for number in range(PARTITIONS)],
                removals=await read_removals(self.rig.kafka, [events]),
            ).run()  # fmt: skip

    async def _witnessed(self) -> dict[str, list[str]]:
        return {"witness": [each.note for each in WitnessFile(self.folder / "witness.jsonl").read()]}

    async def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run `tradesaga audit ... --json`: exit code and what it prints."""
        rig = self.rig
        return await asyncio.to_thread(run_audit, rig.kafka, rig.url, rig.saga.name, self.folder, *arguments)


@pytest_asyncio.fixture
async def trail(kafka: str, database_url: str, tmp_path: Path) -> AsyncIterator[Trail]:
    """Give a trail with 21 payloads that only the vault can open."""
    async with open_rig(kafka, database_url) as rig:
        trail = Trail(rig, tmp_path)
        await trail.fill()
        yield trail


async def test_shredding_every_key_leaves_all_proofs_valid(trail: Trail) -> None:
    """Database, topics and export verify as before, and say how many payloads they could not read."""
    folder = trail.folder / "export"
    assert (await trail.run("export", "--out", str(folder)))[0] == 0
    rows = await trail.rig.pool.fetch("SELECT saga_id, value FROM saga_event WHERE saga_id = ANY($1)", trail.opaque)
    closed = [row for row in rows if bytes(row["value"]).startswith(SEALED)]
    assert len(closed) == len(trail.opaque) == 24
    assert all(trail.vault.open(row["saga_id"], row["value"]).startswith(b"{") for row in closed)
    trail.vault.keys.clear()
    with pytest.raises(KeyError):
        trail.vault.open(closed[0]["saga_id"], closed[0]["value"])
    topic = await trail.verify_topic()
    assert (topic.findings, topic.rows, topic.unreadable) == ([], 45, 24)
    for way in (("verify",), ("verify", "--export", str(folder))):
        code, report = await trail.run(*way)
        assert report["findings"] == []
        assert (code, report["unaltered"], report["complete"]) == (0, True, True)
        assert (report["rows"], report["unreadable"]) == (45, 24)


async def test_an_opaque_record_is_proven_to_be_in_the_log(trail: Trail) -> None:
    """By its hash alone, against the root that was signed while it could still be read."""
    trail.vault.keys.clear()
    rows = await trail.rig.pool.fetch('SELECT partition, value, hash FROM saga_event ORDER BY partition, "offset"')
    for number in {row["partition"] for row in rows}:
        log = [row for row in rows if row["partition"] == number]
        tree = Tree([hash_leaf(row["hash"]) for row in log])
        note: str = await trail.rig.pool.fetchval("SELECT note FROM audit_checkpoint WHERE partition = $1", number)
        opaque = [index for index, row in enumerate(log) if bytes(row["value"]).startswith(SEALED)]
        for index in opaque:
            check_inclusion(hash_leaf(log[index]["hash"]), index, tree.size, tree.root(), tree.inclusion(index))
        assert f"\n{len(log)}\n" in note


async def test_an_altered_ciphertext_is_found(trail: Trail) -> None:
    """That it cannot be read is no excuse for it to change."""
    async with session(trail.rig.url) as sql:
        await sql.execute("SET session_replication_role = replica")
        done = await sql.execute(
            "UPDATE saga_event SET value = set_byte(value, 20, get_byte(value, 20) # 1)"
            " WHERE saga_id = $1 AND seq IS NULL",
            trail.opaque[-1],
        )
        assert done != "UPDATE 0"
    code, report = await trail.run("verify")
    assert (code, report["unaltered"]) == (1, False)
