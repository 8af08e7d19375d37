"""What a saga costs, as measured, and what is merely assumed about machines and prices: all that the model is fed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

MEASURED: Final = Path(__file__).with_name("measured.json")
"""The one place of the measured costs; `make scale-out ARGS=--keep` writes it."""
MICRO: Final = 1e-6
Share = Annotated[float, Field(gt=0, le=1)]
Amount = Annotated[float, Field(ge=0)]


class Service(BaseModel):
    """One kind of service: its process' CPU time, and PostgreSQL's for it, a batch and a message, in microseconds."""

    model_config = ConfigDict(frozen=True)

    batch_us: Amount
    message_us: Annotated[float, Field(gt=0)]
    postgres_batch_us: Amount
    postgres_message_us: Amount
    messages: Annotated[float, Field(gt=0)]
    """Messages that it takes up for one saga."""
    trips: Annotated[float, Field(gt=0)]
    """Statements of a batch, each a round trip to PostgreSQL."""
    wal_bytes: Amount
    """Bytes that it adds to PostgreSQL's log for one saga."""


class Costs(BaseModel):
    """What one saga of five steps that do nothing costs; bytes and microseconds a saga, unless named otherwise."""

    model_config = ConfigDict(frozen=True)

    steps: Service
    log: Service
    sealer_us: Amount
    postgres_rest_us: Amount
    """PostgreSQL beside the services' own sessions: the sealer's, writing back, vacuum."""
    kafka_us: Amount
    bystander_us: Amount
    """A participant that reads a saga's facts and has no use for any."""
    wal_rest_bytes: Amount
    table_bytes: Amount
    """What PostgreSQL keeps, indexes included."""
    outbox_bytes: Amount
    """What it drops after some days."""
    kafka_bytes: Annotated[float, Field(gt=0)]
    postgres_wire_bytes: Amount
    kafka_wire_bytes: Amount
    handover_ms: Amount
    """From a commit until the record is at its reader, the broker's answer included, without a network."""
    process_mb: Amount
    fetched: dict[str, Any]
    """Where the figures come from: machine, versions, load average, how many sagas."""

    @property
    def services(self) -> tuple[Service, Service]:
        """Give both kinds."""
        return self.steps, self.log


class Measured(BaseModel):
    """What is kept of a run: costs, and how rates and costs went with the number of processes."""

    model_config = ConfigDict(frozen=True)

    costs: Costs
    efficiency: list[dict[str, Any]]


def read_measured(path: Path = MEASURED) -> Measured:
    """Read what is kept with the code, or what a run has written."""
    return Measured.model_validate_json(path.read_bytes())


@dataclass(frozen=True)
class Site:
    """What is assumed of the machines. Nothing here was measured; every figure is there to be replaced."""

    utilisation: float = 0.6
    """The part of each limit that is planned for."""
    partitions: int = 12
    batch: int = 1000
    round_trip_ms: float = 0.5
    """Between a service and its database, and between a service and a broker."""
    sync_ms: float = 1.0
    """A commit made durable: on a disk, and on a standby."""
    postgres_cores: int = 32
    postgres_log_mb: float = 300.0
    """Megabytes a second that one PostgreSQL writes to its log and ships to its standby."""
    brokers: int = 3
    copies: int = 3
    broker_mb: float = 100.0
    """Megabytes a second that one broker takes in, copies of other brokers' records included."""
    split: tuple[int, ...] = (1, 1, 2, 1)
    """Which services do the saga's steps, how many each, as in the trade: risk, cash, execution, settlement."""
    postgres_copies: int = 2
    uneven: float = 1.1
    """The fullest cell, as a multiple of the mean: accounts differ."""

    @property
    def trip(self) -> float:
        """Give a round trip in seconds."""
        return self.round_trip_ms / 1000

    @property
    def sync(self) -> float:
        """Give a sync in seconds."""
        return self.sync_ms / 1000


@dataclass(frozen=True)
class Price:
    """A price in US dollars and how far it may be off either way: an assumption, nobody's list price."""

    low: float
    high: float


@dataclass(frozen=True)
class Prices:
    """What things are assumed to cost."""

    core_month: Price = Price(15, 45)
    """A core with four gigabytes, rented for a month."""
    disk_month: Price = Price(0.05, 0.12)
    """A gigabyte on a disk that a database or a broker can work with."""
    archive_month: Price = Price(0.004, 0.025)
    """A gigabyte on a store for what is kept and hardly read."""
    traffic: Price = Price(0.0, 0.02)
    """A gigabyte from one zone to another."""
    days_on_disk: int = 30
    years_kept: int = 5
