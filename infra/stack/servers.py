"""Start and stop the two servers of a stack; `python -m infra.stack.servers --dir DIR up|down|env` does so by hand."""

from pathlib import Path
from typing import Annotated

import typer

from infra.errors import CommandError
from infra.stack.kafka import start_kafka, stop_kafka
from infra.stack.postgres import start_postgres, stop_postgres
from infra.stack.state import StackState, lock, read_state, write_state


def start_servers(home: Path) -> StackState:
    """Start PostgreSQL and Kafka in the folder and record each as soon as it runs; what runs already is kept."""
    with lock(home):
        state = read_state(home)
        postgres = start_postgres(home, state.postgres)
        state = state.model_copy(update={"postgres": postgres, "database_url": postgres.url})
        write_state(home, state)
        broker = start_kafka(home, state.broker)
        state = state.model_copy(update={"broker": broker, "kafka": broker.bootstrap})
        write_state(home, state)
    return state


def stop_servers(home: Path) -> StackState:
    """Stop Kafka, then PostgreSQL, each cleanly; their data and ports are kept."""
    with lock(home):
        state = read_state(home)
        state = state.model_copy(update={"broker": stop_kafka(state.broker)})
        write_state(home, state)
        state = state.model_copy(update={"postgres": stop_postgres(state.postgres)})
        write_state(home, state)
    return state


def main(action: str, directory: Annotated[Path, typer.Option("--dir")] = Path(".tradesaga")) -> None:
    """Run one of up, down and env, and print what a client needs to reach the servers."""
    try:
        state = {"up": start_servers, "down": stop_servers, "env": read_state}[action](directory)
    except CommandError as error:
        typer.echo(error, err=True)
        raise typer.Exit(error.exit_code) from error
    if action != "down":
        typer.echo(f"TRADESAGA_KAFKA={state.kafka}\nTRADESAGA_DATABASE_URL={state.database_url}")


if __name__ == "__main__":
    typer.run(main)
