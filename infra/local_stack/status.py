"""Status of a stack, taken from the running processes rather than from the state file."""

import http.client
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ValidationError

from tradesaga.infra.local_stack.parts import VENUE, are_together
from tradesaga.infra.local_stack.ports import LOOPBACK, accepts
from tradesaga.infra.local_stack.process import is_alive
from tradesaga.infra.local_stack.state import Frozen, PartState, StackState, read_state

_LONGEST: Final = 64 * 1024
State = Literal["running", "starting", "halted", "stopped"]


class ServiceStatus(Frozen):
    """A service; services that share a process share its pid and its metrics."""

    name: str
    pid: int | None
    state: State
    metrics: str | None
    lag_seconds: float | None = None
    """The lag of the process, by its slowest worker."""
    refusing: str | None = None
    """Why it refuses new work."""
    warning: str | None = None
    """A warning; the service works."""
    halted: str | None = None
    """Why it does nothing until an operator acts."""


class _Readiness(BaseModel):
    """The part of a process's /readyz that is shown; the venue's has less."""

    lag_seconds: dict[str, float] = {}
    refusing: dict[str, str] = {}
    warnings: dict[str, str] = {}
    halted: dict[str, str] = {}


class StackStatus(Frozen):
    """The address of each server, None if it does not run; servers given by the environment are not checked."""

    kafka: str | None
    topic_prefix: str | None
    """The prefix of topic and group names."""
    database: str | None
    venue: str | None
    http: str | None
    services: tuple[ServiceStatus, ...]
    partitions: int | None = None
    """The number of partitions of the topics that are keyed by saga."""
    together: bool | None = None
    """Whether all services share one process."""

    @property
    def is_up(self) -> bool:
        """Whether both servers and all services run."""
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
        partitions=state.partitions or None,
        together=are_together(state.parts),
    )


def own_servers(state: StackState) -> dict[str, bool]:
    """Return, for each server that the stack runs itself, whether its process is alive."""
    servers = {
        "postgres": (state.own_postgres, state.postgres.process),
        "kafka": (state.own_broker, state.broker.process),
    }
    return {name: is_alive(process) for name, (own, process) in servers.items() if own}


def is_ready(part: PartState) -> bool:
    """Return whether the part's process runs and reports itself ready."""
    return is_alive(part.process) and _ask(part.port)[0]


def halted_reason(part: PartState) -> str:
    """Return why the part does nothing until an operator acts; empty if it works or does not answer."""
    return _reason(_ask(part.port)[1]) or "" if is_alive(part.process) else ""


def _reason(readiness: _Readiness) -> str | None:
    """Return each reason once: a problem of a database or a topic is one of every group."""
    return "; ".join(dict.fromkeys(readiness.halted.values())) or None


def _venue(state: StackState) -> str | None:
    part = next((part for part in state.parts if part.name == VENUE), None)
    if part is not None and not is_ready(part):
        return None
    return state.venue_url or None


def _of_service(name: str, part: PartState) -> ServiceStatus:
    if not is_alive(part.process) or part.process is None:
        return ServiceStatus(name=name, pid=None, state="stopped", metrics=None)
    ready, readiness = _ask(part.port)
    return ServiceStatus(
        name=name,
        pid=part.process.pid,
        state="running" if ready else "halted" if readiness.halted else "starting",
        metrics=f"http://{LOOPBACK}:{part.port}/metrics",
        lag_seconds=max(readiness.lag_seconds.values(), default=None),
        refusing="; ".join(readiness.refusing.values()) or None,
        warning=readiness.warnings.get(name),
        halted=_reason(readiness),
    )


def _ask(port: int) -> tuple[bool, _Readiness]:
    """Request /readyz with a timeout of two seconds."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        ready, body = answer.status == http.HTTPStatus.OK, answer.read(_LONGEST)
    except (OSError, http.client.HTTPException):
        return False, _Readiness()
    finally:
        connection.close()
    try:
        return ready, _Readiness.model_validate_json(body)
    except ValidationError:  # the venue's answer has another form
        return ready, _Readiness()
