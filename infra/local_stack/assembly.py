"""Start and stop a whole stack: servers, schema, topics, venue, services and supervisor."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tradesaga.infra.audit_log.note import write_new
from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.kafka.names import Cluster
from tradesaga.infra.kafka.topics import TopicPolicy, all_topics, ensure_topics
from tradesaga.infra.local_stack import machine
from tradesaga.infra.local_stack.parts import (
    TOGETHER,
    VENUE,
    are_together,
    service_parts,
    start_part,
    stop_parts,
    venue_account,
    venue_part,
)
from tradesaga.infra.local_stack.ports import LOOPBACK, claim
from tradesaga.infra.local_stack.process import Launch, is_alive, launch, stop, tail
from tradesaga.infra.local_stack.servers import start_servers, stop_servers
from tradesaga.infra.local_stack.state import PartState, StackState, change_state, lock, read_state
from tradesaga.infra.local_stack.status import halted_reason, is_ready
from tradesaga.infra.postgres.migrate import migrate_all
from tradesaga.infra.registry.sagas import registered_sagas
from tradesaga.infra.settings import Settings
from tradesaga.infra.starts.request_keys import ensure_request_keys

READY_SECONDS = 90.0
SUPERVISOR_PATIENCE = 150.0
FAILING_STARTS = 4
HALTED_SECONDS = 6.0
"""Seconds that a service must stay halted before `up` fails: after a start of the servers it may be a false alarm."""
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StackOptions:
    """The services to run, whether in one process, and the venue's configuration file.

    Without `together` the folder keeps what it has, and the machine decides for a new one.
    """

    services: Sequence[str]
    together: bool | None = None
    venue_config: Path | None = None


def bring_up(home: Path, settings: Settings, options: StackOptions, report: Report) -> StackState:
    """Start everything of the stack that does not run, and return when all of it is ready.

    Raises CommandError: exit 5 if a server, a port, a download, disk space or a service is missing, exit 4 if the stack
    runs with other modules of the user's, another topic prefix or in other processes, or a service is halted.
    """
    with lock(home, "up.lock"):
        _record_names(home, settings, options)
        settings = _choose_partitions(home, settings)
        report("starting PostgreSQL and Kafka")
        kafka, database_url = _external_servers(settings)
        state = start_servers(home, kafka, database_url)
        report("migrating the database")
        migrate_all({state.database_url, *(url.get_secret_value() for url in settings.service_databases.values())})
        report("creating the topics")
        topics = all_topics(registered_sagas(settings.app))
        brokers = str(Cluster(state.kafka, settings.topic_prefix))
        asyncio.run(ensure_topics(brokers, topics, TopicPolicy.of(settings)))
        change_state(home, lambda state: state.model_copy(update={"partitions": settings.partitions}))
        if not is_alive(state.supervisor):
            _start_parts(home, settings, options)
        report("waiting for the venue and the services")
        _wait_until_ready(home)
    return read_state(home)


def _record_names(home: Path, settings: Settings, options: StackOptions) -> None:
    """Record modules and prefix for later commands in this folder; raise if the stack runs otherwise than asked."""
    state, running = read_state(home), ""
    if state.app != settings.app:
        running = ", ".join(state.app) or "no modules of yours"
    elif state.topic_prefix != settings.topic_prefix:
        running = f"the topic prefix {state.topic_prefix}" if state.topic_prefix else "no topic prefix"
    elif (together := are_together(state.parts)) is not None and options.together not in {None, together}:
        running = "all services in one process" if together else "one process for each service"
    if is_alive(state.supervisor) and running:
        what = f"the stack runs already, with {running}"
        do = "run `tradesaga down`, then run this command again"
        raise CommandError("stack-running", what, str(home), do, ExitCode.REFUSED)
    names = {"app": settings.app, "topic_prefix": settings.topic_prefix}
    change_state(home, lambda state: state.model_copy(update=names))


def _choose_partitions(home: Path, settings: Settings) -> Settings:
    """Return the settings for this folder's topics.

    The machine decides for a new folder with a broker of its own. This is recorded at once: once the folder has a
    broker, a missing number is that of an earlier release.
    """
    state = read_state(home)
    given = os.environ.get("TRADESAGA_PARTITIONS") or os.environ.get("TRADESAGA_KAFKA")
    if given or state.kafka or state.partitions:
        return settings
    partitions = machine.defaults().partitions
    change_state(home, lambda state: state.model_copy(update={"partitions": partitions}))
    return settings.changed(partitions=partitions)


def bring_down(home: Path, report: Report) -> StackState:
    """Stop the supervisor and its parts, then Kafka, then PostgreSQL, cleanly; the data is kept."""
    report("stopping the services and the venue")
    stop(read_state(home).supervisor, patience=SUPERVISOR_PATIENCE)
    stop_parts(home)  # a killed supervisor leaves its parts running
    report("stopping Kafka and PostgreSQL")
    stop_servers(home)
    return change_state(home, lambda state: state.model_copy(update={"supervisor": None}))


def _external_servers(settings: Settings) -> tuple[str, str]:
    """Return the servers that the environment names; the state file has the stack's own."""
    kafka = settings.kafka if os.environ.get("TRADESAGA_KAFKA") else ""
    database_url = settings.database_for() if os.environ.get("TRADESAGA_DATABASE_URL") else ""
    return kafka, database_url


def _start_parts(home: Path, settings: Settings, options: StackOptions) -> None:
    """Assign the ports, start the parts, then the supervisor."""
    stop_parts(home)
    state = read_state(home)
    ports = {part.name: part.port for part in state.parts}
    state_file = str(home / "state.json")
    parts = [
        part.model_copy(update={"port": claim(ports.get(part.name, 0), part.name, state_file)})
        for part in service_parts(options.services, together=_choose_together(state, options))
    ]
    venue_url = settings.venue_url
    if not os.environ.get("TRADESAGA_VENUE_URL"):
        part = venue_part(home, claim(ports.get(VENUE, 0), "the paper venue", state_file), options.venue_config)
        venue_url = f"http://{LOOPBACK}:{part.port}"
        parts.insert(0, part)
    http_port = claim(settings.http_port or state.http_port, "the HTTP API", state_file)
    ensure_request_keys(settings.request_keys_file())
    if not settings.audit_key_file().exists():
        write_new(settings.audit_key_file(), settings.audit_log_id)
    key, secret = venue_account(options.venue_config)
    values = {"http_port": http_port, "venue_url": venue_url, "venue_key": key, "venue_secret": secret}
    change_state(home, lambda state: state.model_copy(update={**values, "parts": tuple(parts)}))
    for part in parts:
        start_part(home, part)
    _start_supervisor(home.resolve())


def _choose_together(state: StackState, options: StackOptions) -> bool:
    """Return whether all services share a process: as asked, as before in this folder, or as the machine decides."""
    asked = are_together(state.parts) if options.together is None else options.together
    return machine.defaults().together if asked is None else asked


def _start_supervisor(home: Path) -> None:
    argv = [sys.executable, "-m", "tradesaga.infra.local_stack.supervisor", str(home)]
    environment = {**os.environ, "TRADESAGA_HOME": str(home)}
    process = launch(Launch(argv, home / "logs" / "supervisor.log", Path.cwd(), environment))
    change_state(home, lambda state: state.model_copy(update={"supervisor": process}))


def _wait_until_ready(home: Path) -> None:
    """Wait for all parts. If one keeps ending, raise with the last lines of its log and leave the others running."""
    since = time.monotonic()
    until = since + READY_SECONDS
    while True:
        waiting = [part for part in read_state(home).parts if not is_ready(part)]
        if not waiting:
            return
        halted = [part for part in waiting if halted_reason(part)]
        since = since if halted else time.monotonic()
        if time.monotonic() - since > HALTED_SECONDS:
            raise _halted(halted[0])
        failing = [part for part in waiting if part.starts >= FAILING_STARTS]
        if failing or time.monotonic() > until:
            raise _not_ready(home, (failing or waiting)[0])
        time.sleep(0.1)


def _halted(part: PartState) -> CommandError:
    what = f"{part.name} is halted and needs an operator: {halted_reason(part)}"
    do = "remove the cause, then run `tradesaga down` and `tradesaga up`; docs/operations.md lists each case"
    return CommandError("halted", what, part.name, do, ExitCode.REFUSED)


def _not_ready(home: Path, part: PartState) -> CommandError:
    log = home / "logs" / f"{part.name}.log"
    subject = "the services are" if part.name == TOGETHER else f"{part.name} is"
    do = f"read `tradesaga logs {part.name}`, correct the cause, then run `tradesaga down` and `tradesaga up`"
    return unavailable("service-failed", f"{subject} not ready: {tail(log, 2)}", str(log), do)
