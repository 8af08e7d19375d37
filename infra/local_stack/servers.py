"""Start and stop the servers of a stack, Kafka and PostgreSQL.

On the command line: `python -m tradesaga.infra.local_stack.servers --dir DIR up|down|env`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.local_stack.kafka import start_kafka, stop_kafka
from tradesaga.infra.local_stack.postgres import start_postgres, stop_postgres
from tradesaga.infra.local_stack.state import StackState, change_state, lock, read_state


def start_servers(home: Path, kafka: str = "", database_url: str = "") -> StackState:
    """Start PostgreSQL and Kafka in the folder, except those that are given; record each as soon as it runs.

    Servers that run already keep running.
    """
    with lock(home):
        if database_url:
            _record(home, own_postgres=False, database_url=database_url)
        else:
            postgres = start_postgres(home, read_state(home).postgres)
            _record(home, own_postgres=True, postgres=postgres, database_url=postgres.url)
        if kafka:
            return _record(home, own_broker=False, kafka=kafka)
        broker = start_kafka(home, read_state(home).broker)
        return _record(home, own_broker=True, broker=broker, kafka=broker.bootstrap)


def revive_servers(home: Path) -> StackState:
    """Restart those of the stack's own servers that have ended."""
    state = read_state(home)
    kafka = "" if state.own_broker else state.kafka
    database_url = "" if state.own_postgres else state.database_url
    return start_servers(home, kafka, database_url)


def stop_servers(home: Path) -> StackState:
    """Stop Kafka, then PostgreSQL, cleanly; their data and ports are kept."""
    with lock(home):
        state = read_state(home)
        _record(home, broker=stop_kafka(state.broker))
        return _record(home, postgres=stop_postgres(state.postgres))


def _record(home: Path, **values: Any) -> StackState:
    return change_state(home, lambda state: state.model_copy(update=values))


def main(action: str, directory: Annotated[Path, typer.Option("--dir")] = Path(".tradesaga")) -> None:
    """Run up, down or env; print the settings with which clients reach the servers."""
    actions: dict[str, Callable[[Path], StackState]] = {"up": start_servers, "down": stop_servers, "env": read_state}
    if action not in actions:
        raise typer.BadParameter(f"give one of {', '.join(actions)}")
    try:
        state = actions[action](directory)
    except CommandError as error:
        typer.echo(error, err=True)
        raise typer.Exit(int(error.exit_code)) from error
    if action == "env" and not state.kafka:
        typer.echo(f"no servers have been started in {directory}", err=True)
        raise typer.Exit(int(ExitCode.NOT_FOUND))
    if action != "down":
        typer.echo(f"TRADESAGA_KAFKA={state.kafka}\nTRADESAGA_DATABASE_URL={state.database_url}")


if __name__ == "__main__":
    typer.run(main)
