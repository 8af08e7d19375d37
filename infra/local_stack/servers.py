"""Start and stop the servers of a stack.

By hand: `python -m tradesaga.infra.local_stack.servers --dir DIR up|down|env`.
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
    """Start PostgreSQL and Kafka in the folder, save those that are given, and record each as soon as it runs.

    What runs already is kept.
    """
    with lock(home):
        _start_postgres(home, database_url)
        return _start_kafka(home, kafka)


def revive_servers(home: Path) -> StackState:
    """Start again those of the stack's own servers that have died."""
    state = read_state(home)
    kafka = "" if state.own_broker else state.kafka
    database_url = "" if state.own_postgres else state.database_url
    return start_servers(home, kafka, database_url)


def stop_servers(home: Path) -> StackState:
    """Stop Kafka, then PostgreSQL, each cleanly; their data and ports are kept."""
    with lock(home):
        state = read_state(home)
        _record(home, broker=stop_kafka(state.broker))
        return _record(home, postgres=stop_postgres(state.postgres))


def _start_postgres(home: Path, given: str) -> StackState:
    if given:
        return _record(home, own_postgres=False, database_url=given)
    postgres = start_postgres(home, read_state(home).postgres)
    return _record(home, own_postgres=True, postgres=postgres, database_url=postgres.url)


def _start_kafka(home: Path, given: str) -> StackState:
    if given:
        return _record(home, own_broker=False, kafka=given)
    broker = start_kafka(home, read_state(home).broker)
    return _record(home, own_broker=True, broker=broker, kafka=broker.bootstrap)


def _record(home: Path, **values: Any) -> StackState:
    return change_state(home, lambda state: state.model_copy(update=values))


def main(action: str, directory: Annotated[Path, typer.Option("--dir")] = Path(".tradesaga")) -> None:
    """Run one of up, down and env, and print what a client needs to reach the servers."""
    actions: dict[str, Callable[[Path], StackState]] = {"up": start_servers, "down": stop_servers, "env": read_state}
    if action not in actions:
        raise typer.BadParameter(f"give one of {', '.join(actions)}")
    try:
        state = actions[action](directory)
    except CommandError as error:
        typer.echo(error, err=True)
        raise typer.Exit(int(error.exit_code)) from error
    if action == "env" and not state.kafka:
        typer.echo(f"no servers were ever started in {directory}", err=True)
        raise typer.Exit(int(ExitCode.NOT_FOUND))
    if action != "down":
        typer.echo(f"TRADESAGA_KAFKA={state.kafka}\nTRADESAGA_DATABASE_URL={state.database_url}")


if __name__ == "__main__":
    typer.run(main)
