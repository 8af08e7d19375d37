"""What of a stack runs now, looked up from the processes themselves and not from what was once recorded."""

import http.client
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tradesaga.infra.local_stack.parts import VENUE
from tradesaga.infra.local_stack.ports import LOOPBACK, accepts
from tradesaga.infra.local_stack.process import is_alive
from tradesaga.infra.local_stack.state import PartState, StackState, read_state

_LONGEST: Final = 64 * 1024
State = Literal["running", "starting", "halted", "stopped"]


class ServiceStatus(BaseModel):
    """One service: services that share a process share its pid and its metrics."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int | None
    state: State
    metrics: str | None
    lag_seconds: float | None = None
    """How far the process is behind, by its slowest worker."""
    refusing: str | None = None
    """Why it takes nothing new in."""
    warning: str | None = None
    """What a person should know although it works."""
    halted: str | None = None
    """Why it works on nothing until a person has acted."""


class _Readiness(BaseModel):
    """What of a process's own account of itself is shown; the venue says less."""

    lag_seconds: dict[str, float] = {}
    refusing: dict[str, str] = {}
    warnings: dict[str, str] = {}
    halted: dict[str, str] = {}


class StackStatus(BaseModel):
    """Where each server answers, or null where it does not run; a given server is shown as given, unprobed."""

    model_config = ConfigDict(frozen=True)

    kafka: str | None
    topic_prefix: str | None
    """What the names of topics and groups begin with on the cluster."""
    database: str | None
    venue: str | None
    http: str | None
    services: tuple[ServiceStatus, ...]

    @property
    def is_up(self) -> bool:
        """Return whether both servers and every service run."""
        return bool(self.kafka and self.database) and all(service.state == "running" for service in self.services)


def look(home: Path) -> StackStatus:
    """Return the status of every process of the stack."""
    state = read_state(home)
    alive = own_servers(state)
    services = tuple(_of_service(name, part) for part in state.parts for name in part.serves)
    return StackStatus(
        kafka=(state.kafka or None) if alive.get("kafka", True) else None,
        topic_prefix=state.topic_prefix or None,
        database=(state.database_url or None) if alive.get("postgres", True) else None,
        venue=_venue(state),
        http=f"http://{LOOPBACK}:{state.http_port}" if state.http_port and accepts(state.http_port) else None,
        services=services,
    )


def own_servers(state: StackState) -> dict[str, bool]:
    """Return, for each server that the stack runs itself, whether its process is alive."""
    servers = {
        "postgres": (state.own_postgres, state.postgres.process),
        "kafka": (state.own_broker, state.broker.process),
    }
    return {name: is_alive(process) for name, (own, process) in servers.items() if own}


def is_ready(part: PartState) -> bool:
    """Return whether the part's process runs and says that it is ready."""
    return is_alive(part.process) and _ask(part.port)[0]


def halted_reason(part: PartState) -> str:
    """Return why the part works on nothing until a person has acted; empty if it does, or does not answer."""
    return _reason(_ask(part.port)[1]) or "" if is_alive(part.process) else ""


def _reason(said: _Readiness) -> str | None:
    """Return each reason once: what is wrong with a database or a topic is wrong for every group."""
    return "; ".join(dict.fromkeys(said.halted.values())) or None


def _venue(state: StackState) -> str | None:
    part = next((part for part in state.parts if part.name == VENUE), None)
    if part is not None and not is_ready(part):
        return None
    return state.venue_url or None


def _of_service(name: str, part: PartState) -> ServiceStatus:
    if not is_alive(part.process) or part.process is None:
        return ServiceStatus(name=name, pid=None, state="stopped", metrics=None)
    ready, said = _ask(part.port)
    return ServiceStatus(
        name=name,
        pid=part.process.pid,
        state="running" if ready else "halted" if said.halted else "starting",
        metrics=f"http://{LOOPBACK}:{part.port}/metrics",
        lag_seconds=max(said.lag_seconds.values(), default=None),
        refusing="; ".join(said.refusing.values()) or None,
        warning=said.warnings.get(name),
        halted=_reason(said),
    )


def _ask(port: int) -> tuple[bool, _Readiness]:
    """Request /readyz, waiting two seconds at most."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status == http.HTTPStatus.OK, _read(answer.read(_LONGEST))
    except (OSError, http.client.HTTPException):
        return False, _Readiness()
    finally:
        connection.close()


def _read(body: bytes) -> _Readiness:
    """Read an answer; the venue's is no JSON of ours."""
    try:
        return _Readiness.model_validate_json(body)
    except ValidationError:
        return _Readiness()
