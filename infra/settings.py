"""The settings of a process, read once from the environment and from the local stack's state."""

import os
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from tradesaga.infra.audit_log.clock_evidence import ClockTier
from tradesaga.infra.audit_log.schedule import parse_schedule
from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.kafka.names import Cluster, is_prefix
from tradesaga.infra.local_stack.state import StackState, read_state
from tradesaga.schemas.invalid import first_invalid
from tradesaga.schemas.topics import MOST_PARTITIONS, PARTITIONS

PREFIX = "TRADESAGA_"
SERVICE_DATABASE = f"{PREFIX}DATABASE_URL_"
_PORT_DIGITS = 5
_LAST_PORT = 65535
SAGA_LOG = "saga_log"
"""The service whose database has the checkpoints, the audit log, parked records and start requests."""
LEDGER_SERVICES = ("risk", "cash", "execution", "settlement")
"""The services whose rows are in the ledger database; the venue feed writes there too."""
Port = Annotated[int, Field(ge=0, le=65535)]


def _checked_dsn(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if not url:
        return value
    parts = urlsplit(url)
    if not re.fullmatch(r"postgres(ql)?", parts.scheme) or not parts.path.strip("/"):
        raise ValueError("write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return value


def _checked_tier(value: str) -> str:
    return str(ClockTier.parse(value))


Dsn = Annotated[SecretStr, AfterValidator(_checked_dsn)]


class Settings(BaseSettings):
    """All settings, each from TRADESAGA_<NAME>; port 0 serves nothing."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    home: Path = Path(".tradesaga")
    """Folder of the local stack."""
    kafka: str = ""
    """Address of Kafka as `HOST:PORT`, several separated by commas."""
    database_url: Dsn = SecretStr("")
    """URL of PostgreSQL as `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`."""
    service_databases: dict[str, Dsn] = {}
    """Database of one service (`SAGA_LOG`, `STOCK`, ...); the others use TRADESAGA_DATABASE_URL. `RISK`, `CASH`,
    `EXECUTION` and `SETTLEMENT` must have the same one. Set it alike for all services, so that none acquires lanes that
    another has left in its former database.
    """
    venue_url: str = ""
    """URL of the venue's API."""
    venue_key: SecretStr = SecretStr("")
    """Key of the account at the venue."""
    venue_secret: SecretStr = SecretStr("")
    """Secret of the account at the venue."""
    venue_name: Annotated[str, Field(min_length=1, max_length=64)] = "paper"
    """Name of the venue in accounts, instruments and reports."""
    venue_fee_rate: Annotated[Decimal, Field(ge=0, lt=1)] = Decimal("0.001")
    """Maximum fee of the venue, as a fraction of an order's value; holds include it."""
    http_host: str = "127.0.0.1"
    """Address on which the HTTP API and the probes listen."""
    http_port: Port = 0
    """Port of the HTTP API; `up` chooses one."""
    metrics_port: Port = 0
    """Port of `/metrics`, `/healthz` and `/readyz`; `up` chooses one, 0 serves none."""
    session_timeout_ms: Annotated[int, Field(ge=1000)] = 6000
    """Milliseconds after which Kafka reassigns the partitions of a consumer that sends no heartbeat."""
    calls_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 4096
    """Maximum number of concurrent remote calls of a participant; further calls wait in its rows."""
    intake_lag_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that the saga log may be behind before starts and signals wait on their topics."""
    intake_in_flight: Annotated[int, Field(ge=1)] = 10_000
    """Number of open sagas at which further starts and signals wait on their topics."""
    unowned_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Seconds after its deadline for which a saga waits for a step without an owner before it is FAILED."""
    topic_prefix: str = ""
    """Prefix of topics and groups on a shared cluster, before a dot: `desk7` for `desk7.trade.events`. Lower-case
    letters, digits and hyphens, 63 at most. `up` stores it.
    """
    partitions: Annotated[int, Field(ge=1, le=MOST_PARTITIONS)] = PARTITIONS
    """Number of partitions of the topics that are keyed by saga, the same for all services. It never changes once the
    topics exist. `up` stores it, and chooses 3 for a new folder on a machine with at most two cores.
    """
    topic_replicas: Annotated[int, Field(ge=0, le=32_767)] = 0
    """Number of brokers that keep each record; 0: three, or as many as there are."""
    topic_min_insync_replicas: Annotated[int, Field(ge=0, le=32_767)] = 0
    """Number of brokers that must acknowledge a record; 0: two if there are three or more replicas, otherwise one."""
    topic_unclean_leader_election: bool = False
    """Whether to accept topics that a broker without all records may lead, which may lose acknowledged records."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`."""
    log_format: Literal["text", "json"] = "json"
    """`json` or `text`."""
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of sagas whose spans are recorded, with the `tracing` extra."""
    request_keys: Path | None = None
    """File of the keys that hash requests, the same for all services that start sagas; default `request.keys` in the
    stack's folder. `up` and `migrate` create it.
    """
    audit_key: Path | None = None
    """File of the private key that signs the audit log's checkpoints; default `audit.key` in the stack's folder.
    Services read only the public key beside it, `.pub`, if it exists.
    """
    audit_witness: Path | None = None
    """File that keeps checkpoints outside the database and Kafka; default `audit-witness.jsonl` in the stack's folder.
    """
    audit_log_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "tradesaga"
    """Name of this installation in checkpoints. Never change it after the first seal."""
    audit_clock_tier: Annotated[str, AfterValidator(_checked_tier)] = "off"
    """Largest error of the sealing machine's clock before a warning: `100 us`, `1 ms`, `50 ms`, `1 s`, a number of
    milliseconds, or `off`.
    """
    audit_unsealed_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """Seconds for which a record may wait for its seal before a warning."""
    audit_retention: str = "off"
    """Retention of the audit log, also by saga: `7y`, `18m`, `90d`, `7y, trade=10y`, or `off`. Nothing is removed
    automatically.
    """
    audit_lap: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 60.0
    """Minimum seconds in which the live auditor checks all sagas again, including idle ones."""
    app: Annotated[tuple[str, ...], NoDecode] = ()
    """Modules with further sagas, participants and services, separated by commas. `up` stores them, and those of
    `--app`, for later commands in its folder.
    """

    @field_validator("app", mode="before")
    @classmethod
    def _split_app(cls, value: Any) -> Any:
        return _split(value) if isinstance(value, str) else value

    @field_validator("audit_retention")
    @classmethod
    def _check_retention(cls, value: str) -> str:
        parse_schedule(value)
        return value

    @field_validator("topic_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if value and not is_prefix(value):
            raise ValueError("use lower-case letters, digits and hyphens, 63 at most and no hyphen first or last")
        return value

    @field_validator("topic_min_insync_replicas")
    @classmethod
    def _check_durability(cls, value: int, info: ValidationInfo) -> int:
        if 0 < info.data.get("topic_replicas", 0) < value:
            raise ValueError("it must not be above TRADESAGA_TOPIC_REPLICAS, or nothing could be written")
        return value

    @field_validator("kafka")
    @classmethod
    def _check_kafka(cls, value: str) -> str:
        for server in value.split(",") if value else ():
            host, _, port = server.strip().rpartition(":")
            fits = port.isascii() and port.isdigit() and len(port) <= _PORT_DIGITS and 0 < int(port) <= _LAST_PORT
            # Bytes of the environment that are not UTF-8 are not printable.
            if not host or " " in host or not host.isprintable() or not fits:
                raise ValueError("write the broker as HOST:PORT, several separated by commas")
        return value

    def brokers(self) -> str:
        """Return Kafka's address as `tradesaga.infra.kafka.names.Cluster` reads it.

        Raises `CommandError` when none is known.
        """
        if not self.kafka:
            raise _absent("Kafka", self.home, "TRADESAGA_KAFKA")
        return str(Cluster(self.kafka, self.topic_prefix))

    def database_for(self, service: str = "") -> str:
        """Return the database URL of the service.

        Raises `CommandError` if none is known (exit 5), or if the trade's services have different ones (exit 2).
        """
        if service in LEDGER_SERVICES:
            self._check_ledger()
        url = self.service_databases.get(service, self.database_url).get_secret_value()
        if not url:
            raise _absent("PostgreSQL", self.home, "TRADESAGA_DATABASE_URL")
        return url

    def shares_database(self, service: str, other: str) -> bool:
        """Return whether two services have the same database, or the settings have none for `other`.

        Users and passwords may differ; host, port and name are compared as they are written.
        """
        here, there = (
            self.service_databases.get(each, self.database_url).get_secret_value() for each in (service, other)
        )
        return not there or _server_and_name(here) == _server_and_name(there)

    def _check_ledger(self) -> None:
        """Reject different databases for services that check each other's rows."""
        urls = {self.service_databases.get(each, self.database_url).get_secret_value() for each in LEDGER_SERVICES}
        if len(urls) > 1:
            names = sorted(each for each in LEDGER_SERVICES if each in self.service_databases)
            variables = ", ".join(f"{SERVICE_DATABASE}{each.upper()}" for each in names)
            what = "risk, cash, execution and settlement check each other's rows and so share one ledger database"
            do = f"set the same URL for all four of them, or none: {variables} differ"
            raise CommandError("ledger-divided", what, "environment", do, ExitCode.USAGE)

    def request_keys_file(self) -> Path:
        """Return the file of the keys that hash requests."""
        return self.request_keys or self.home / "request.keys"

    def audit_key_file(self) -> Path:
        """Return the file of the sealing key."""
        return self.audit_key or self.home / "audit.key"

    def audit_witness_file(self) -> Path:
        """Return the witness file."""
        return self.audit_witness or self.home / "audit-witness.jsonl"

    def clock_tier(self) -> ClockTier:
        """Return the tolerated error of the sealing machine's clock."""
        return ClockTier.parse(self.audit_clock_tier)

    def changed(self, **values: Any) -> Self:
        """Return a validated copy with some settings changed."""
        return type(self).model_validate({**dict(self), **values})


def load_settings(home: Path | None = None, app: Sequence[str] | None = None) -> Settings:
    """Read the environment, and for what it does not set the stack that runs in `home`; `app` adds modules.

    Raises `CommandError` (exit 2) that names the invalid variable, never its value, which may contain a password.
    """
    given: dict[str, Any] = _service_databases() | ({} if home is None else {"home": home})
    try:
        settings = Settings(**given)
        settings = Settings(**given, **_from_stack(settings, read_state(settings.home)))
        given_apps = [module for option in app or () for module in _split(option) or [option]]
        return settings.changed(app=tuple(dict.fromkeys((*settings.app, *given_apps)))) if app else settings
    except ValidationError as error:
        raise _refused(error) from error
    except SettingsError as error:
        raise _not_json(error) from error


def _split(value: str) -> list[str]:
    return [part for part in re.split(r"[,\s]+", value) if part]


def _server_and_name(url: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Return the parts of a database's URL that locate it."""
    parts = urlsplit(url)
    where = [each for each in parse_qsl(parts.query) if each[0] in {"host", "port", "dbname"}]
    return parts.netloc.rpartition("@")[2], parts.path, where


def _service_databases() -> dict[str, Any]:
    """Collect TRADESAGA_DATABASE_URL_CASH and the like."""
    found = {
        name.removeprefix(SERVICE_DATABASE).lower(): url
        for name, url in os.environ.items()
        if name.startswith(SERVICE_DATABASE)
    }
    return {"service_databases": found} if found else {}


def _from_stack(settings: Settings, state: StackState) -> dict[str, Any]:
    """Return the stack's values of settings that are not set."""
    servers = {"kafka", "database_url", "venue_url", "venue_key", "venue_secret", "http_port"}
    taken = servers | {"app", "topic_prefix", "partitions"}
    known = state.model_dump(include=taken)
    return {name: value for name, value in known.items() if value and name not in settings.model_fields_set}


def _refused(error: ValidationError) -> CommandError:
    first = first_invalid(error)
    name = PREFIX + "_".join(first.path).upper()
    name = name.replace(f"{PREFIX}SERVICE_DATABASES_", SERVICE_DATABASE)
    return CommandError("settings-invalid", f"{name} is not valid", "environment", first.reason, ExitCode.USAGE)


def _not_json(error: SettingsError) -> CommandError:
    """Return the error of a variable that is not valid JSON; pydantic names only its field."""
    field = re.search(r'field "(\w+)"', str(error))
    name = f"{PREFIX}{field[1].upper()}" if field else "a variable"
    return CommandError("settings-invalid", f"{name} is not valid", "environment", "write it as JSON", ExitCode.USAGE)


def _absent(server: str, home: Path, variable: str) -> CommandError:
    return unavailable(
        "stack-absent", f"no {server} is known", str(home), f"start the stack with `tradesaga up`, or set {variable}"
    )
