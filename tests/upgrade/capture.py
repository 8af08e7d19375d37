# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportPrivateImportUsage=false, reportOptionalIterable=false
"""Record a release's data as text: `python -m tests.upgrade.capture --tradesaga BIN --work DIR --out FOLDER`.

BIN is the `tradesaga` command of the release; it is all that is used of it. A stack is brought up in DIR, sagas are
taken to every state that an upgrade can meet, and what lies in PostgreSQL, Kafka, the venue's ledger and the stack's
folder is written to FOLDER: `database.sql`, `topics.jsonl`, `offsets.json`, `venue.sql`, `stack/`, `export/` and
`sagas.json`, which names each saga by what became of it. Then the release itself takes all of them to their ends, which
are written beside their states, and the balances to `balances.txt`: an upgrade must come to the same.
"""

import argparse
import base64
import json
import shutil
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from tests.clusters.standby import programs

PATIENCE: Final = 120.0
INTENT, RETRY, WAITING = "1", "2", "3"
"""How `step_execution.status` names them."""
ACCOUNTS: Final = ("alice", "bob", "carol", "dave", "erin")
BROKEN_SETTLEMENT: Final = """
CREATE FUNCTION refuse_entries() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN IF new.owner = 'carol' AND new.step = 'settle_trade' THEN RAISE 'the book is closed'; END IF; RETURN new; END$$;
CREATE TRIGGER refuse_entries BEFORE INSERT ON ledger_entry FOR EACH ROW EXECUTE FUNCTION refuse_entries();
"""
MENDED_SETTLEMENT: Final = "DROP TRIGGER refuse_entries ON ledger_entry; DROP FUNCTION refuse_entries();"


FIRST_PARKED: Final = """SELECT topic, partition, "offset" FROM parked ORDER BY "offset" LIMIT 1"""
BALANCES: Final = "SELECT owner, asset, kind, balance::text FROM ledger_account ORDER BY owner, asset, kind"


@dataclass
class Release:
    """A stack that runs an earlier release, and the sagas that were started on it, by what became of them."""

    tradesaga: str
    home: Path
    requests: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    ids: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> str:
        """Run one command of the release; fails unless it exits with one of the `allowed` codes."""
        done = subprocess.run(
            [self.tradesaga, *arguments, "--dir", str(self.home)], capture_output=True, text=True, check=False
        )
        if done.returncode not in allowed:
            raise SystemExit(f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    @property
    def state(self) -> dict[str, Any]:
        """The stack's state file."""
        return json.loads((self.home / "state.json").read_text())

    def sql(self, statement: str) -> str:
        """Run SQL on the stack's database and return the rows as text."""
        argv = [str(programs() / "psql"), "-Atqc", statement, self.state["database_url"]]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    def start(self, name: str, **request: str) -> str:
        """Start a trade by the command line and return its saga id."""
        asked = {"idempotency_key": f"key-{name}", "symbol": "EUR/USD", "side": "BUY", "quantity": "1000"} | request
        asked.setdefault("order_type", "LIMIT" if "limit_price" in asked else "MARKET")
        file = self.home / "start.jsonl"
        file.write_text(json.dumps(asked) + "\n")
        said = json.loads(self.run("start", "--file", str(file), "--json").splitlines()[0])
        self.requests[name], self.ids[name] = asked, said["saga_id"]
        return self.ids[name]

    def saga(self, name: str) -> str:
        """The state of a saga in the database."""
        return self.sql(f"SELECT state FROM saga WHERE saga_id = '{self.ids[name]}'")

    def row(self, name: str, step: str) -> str:
        """The status of a saga's step."""
        return self.sql(f"SELECT status FROM step_execution WHERE saga_id = '{self.ids[name]}' AND step = '{step}'")

    def venue(self, path: str, body: Any, method: str = "POST") -> Any:
        """Call the paper venue's administration."""
        request = urllib.request.Request(f"{self.state['venue_url']}/paper/{path}", json.dumps(body).encode(),
                                         {"x-paper-admin": (self.home / "venue" / "admin.key").read_text().strip(),
                                          "content-type": "application/json"}, method=method)  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")


def wait(what: str, met: Callable[[], bool]) -> None:
    """Wait until a condition is met."""
    until = time.monotonic() + PATIENCE
    while not met():
        if time.monotonic() > until:
            raise SystemExit(f"waited in vain until {what}")
        time.sleep(0.2)


def play(release: Release) -> None:
    """Take sagas to every state that an upgrade can meet."""
    release.run("up", "-d")
    release.venue("market", {"speed": 0})
    for account in ACCOUNTS:
        release.run(
            "account",
            "create",
            account,
            "--fund",
            "USD=500000",
            "--fund",
            "EUR=50000",
            "--max-order-notional",
            "1000000",
            "--max-exposure",
            "1000000",
        )
    release.run("subscribe", "crossover", "EUR/USD", "erin")
    _ended(release)
    _open(release)
    _failing(release)
    time.sleep(5)  # for seals and committed offsets


def _ended(release: Release) -> None:
    release.start("completed", account="alice")
    release.start("completed-sell", account="alice", side="SELL")
    release.start("refused", account="alice", quantity="900000")
    release.start("busted", account="bob")
    for name, state in (("completed", "COMPLETED"), ("completed-sell", "COMPLETED"), ("refused", "ABORTED"),
                        ("busted", "COMPLETED")):  # fmt: skip
        wait(f"{name} is {state}", lambda name=name, state=state: release.saga(name) == state)
    client = release.sql(f"SELECT '{release.ids['busted']}'").replace("-", "")
    ledger = release.venue("ledger", None, "GET")
    order = next(each for each in ledger["orders"] if client in json.dumps(each).replace("-", ""))
    number = order.get("orderId", order.get("id"))
    trade = next(each for each in ledger["trades"] if each.get("orderId", each.get("order_id")) == number)
    release.venue("bust", {"tradeId": trade.get("id", trade.get("tradeId"))})
    wait("busted is FAILED", lambda: release.saga("busted") == "FAILED")


def _open(release: Release) -> None:
    release.start("resting", account="alice", limit_price="0.5")
    release.start("partly-filled", account="bob", quantity="150000", limit_price="1.2")  # the book holds 100000
    release.run("pause", "account", "dave", "--reason", "under review")
    release.start("idle", account="dave")
    release.start("parked", account="alice", limit_price="0.51")
    for name in ("resting", "parked"):
        wait(f"{name} rests", lambda name=name: release.row(name, "confirm_fill") == WAITING)
    producer = Producer({"bootstrap.servers": release.state["kafka"], "partitioner": "murmur2_random"})
    saga_id = release.ids["parked"].encode()
    said = {
        "ce_specversion": "1.0", "ce_id": "0192f000-0000-7000-8000-000000000001", "ce_source": "/other",
        "ce_type": "trade.not-known.v1", "ce_time": "2026-11-24T00:00:00Z", "ce_correlationid": release.ids["parked"],
        "ce_subject": release.ids["parked"], "content-type": "application/json",
    }  # fmt: skip
    headers: list[tuple[str, str | bytes | None]] = [(name, value.encode()) for name, value in said.items()]
    producer.produce("trade.events", b'{"of": "another release"}', saga_id, headers=headers)
    producer.produce("trade.starts", b"not JSON", b"any")
    producer.flush(10)
    wait("parked is parked", lambda: release.sql("SELECT count(*) FROM parked") != "0")
    release.run("audit", "hold", "add", "saga", release.ids["resting"], "--reason", "an inquiry")


def _failing(release: Release) -> None:
    release.sql(BROKEN_SETTLEMENT)
    release.start("retrying", account="carol", side="SELL")  # nothing is left to buy
    wait("retrying retries", lambda: release.row("retrying", "settle_trade") == RETRY)
    release.start("compensating", account="erin", limit_price="0.52")
    wait("compensating rests", lambda: release.row("compensating", "confirm_fill") == WAITING)
    release.venue("faults", [{"kind": "outage", "operations": ["cancel", "query"]}])
    release.run("abort", release.ids["compensating"], "--reason", "no longer wanted")
    wait("compensating compensates", lambda: release.saga("compensating") == "COMPENSATING")
    release.venue("faults", [{"kind": "lost_answer", "operations": ["place"], "milliseconds": 1}])
    release.start("unanswered", account="erin", quantity="2000", side="SELL")
    wait("unanswered is not answered", lambda: release.row("unanswered", "place_order") == INTENT)


def write(release: Release, out: Path) -> None:
    """Write all that the release has stored, once its services have stopped."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    states = {name: release.saga(name) for name in release.ids}
    release.run("audit", "verify", "--key", str(release.home / "audit.key.pub"), "--witness",
                str(release.home / "audit-witness.jsonl"), allowed=(0, 1))  # fmt: skip
    release.run("audit", "export", "--out", str(out / "export"))
    for part in (release.state["supervisor"], *(part["process"] for part in release.state["parts"])):
        subprocess.run(["kill", "-9", str(part["pid"])], check=False)  # a crash leaves rows that a stop would settle
    release.sql(MENDED_SETTLEMENT)
    dump = [str(programs() / "pg_dump"), "--no-owner", "--no-privileges", "--schema=public",
            release.state["database_url"]]  # fmt: skip
    (out / "database.sql").write_text(subprocess.run(dump, capture_output=True, text=True, check=True).stdout)
    with sqlite3.connect(release.home / "venue" / "ledger.sqlite") as ledger:
        (out / "venue.sql").write_text("".join(f"{line}\n" for line in ledger.iterdump()))
    _write_topics(release.state["kafka"], out)
    (out / "stack").mkdir()
    for name in ("audit.key", "audit.key.pub", "audit-witness.jsonl"):
        shutil.copy(release.home / name, out / "stack" / name)
    ends = finish(release, out)
    named = {
        name: {"saga_id": release.ids[name], "state": states[name], "end": ends[name], "request": asked}
        for name, asked in release.requests.items()
    }
    (out / "sagas.json").write_text(json.dumps(named, indent=1) + "\n")


def finish(release: Release, out: Path) -> dict[str, str]:
    """Let the release take every saga to its end, write the balances, and return the states."""
    release.run("up", "-d")
    place = release.sql(FIRST_PARKED).split("|")
    release.run("release", *place, "discard", "--reason", "of another release", "--wait")
    open_sagas = "SELECT count(*) FROM saga WHERE state IN ('IDLE', 'RUNNING', 'COMPENSATING')"
    wait("all sagas have ended", lambda: release.sql(open_sagas) == "0")
    (out / "balances.txt").write_text(release.sql(BALANCES) + "\n")
    return {name: release.saga(name) for name in release.ids}


def _write_topics(kafka: str, out: Path) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    topics = sorted(name for name in admin.list_topics(timeout=10).topics if not name.startswith("__"))
    with (out / "topics.jsonl").open("w") as file:
        for topic in topics:
            resource = ConfigResource(ResourceType.TOPIC, topic)
            found = admin.describe_configs([resource])[resource].result()
            settings = {name: each.value for name, each in found.items() if not each.is_default}
            partitions = len(admin.list_topics(topic, timeout=10).topics[topic].partitions)
            file.write(json.dumps({"topic": topic, "partitions": partitions, "settings": settings}) + "\n")
            for record in _records(kafka, topic, partitions):
                file.write(json.dumps(record) + "\n")
    groups = [each.group_id for each in admin.list_consumer_groups().result().valid]
    offsets: dict[str, dict[str, int]] = {}
    for group in sorted(groups):
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        offsets[group] = {
            f"{each.topic}/{each.partition}": each.offset for each in asked[group].result().topic_partitions
        }
    (out / "offsets.json").write_text(json.dumps(offsets, indent=1) + "\n")


def _records(kafka: str, topic: str, partitions: int) -> list[dict[str, Any]]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "capture", "enable.auto.commit": False})
    found: list[dict[str, Any]] = []
    for number in range(partitions):
        place = TopicPartition(topic, number, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=10)
        consumer.assign([place])
        for offset in range(end):
            message = consumer.poll(10)
            if message is None or message.error() or message.offset() != offset:
                raise SystemExit(f"{topic}[{number}] has a gap at offset {offset}")
            headers = [[name, None if value is None else _text(value)] for name, value in message.headers() or []]
            found.append({"partition": number, "timestamp": message.timestamp()[1], "key": _text(message.key()),
                          "value": _text(message.value()), "headers": headers})  # fmt: skip
    consumer.close()
    return found


def _text(data: Any) -> Any:
    """Bytes as text, or as base64 in a list where they are not UTF-8."""
    if data is None:
        return None
    raw = data if isinstance(data, bytes) else str(data).encode()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return [base64.b64encode(raw).decode()]


def main() -> None:
    """Play, write, and stop the servers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tradesaga", required=True, help="the command of the release")
    parser.add_argument("--work", required=True, type=Path, help="an empty folder for the stack")
    parser.add_argument("--out", required=True, type=Path, help="where the texts go; made anew")
    given = parser.parse_args()
    release = Release(given.tradesaga, given.work / "stack")
    try:
        play(release)
        write(release, given.out)
    finally:
        release.run("down")


if __name__ == "__main__":
    main()
