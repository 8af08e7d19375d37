# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false
"""The real trade on DBOS: one process that takes starts over HTTP and runs their workflows on some threads.

Runs in the peers' environment: `python -m tests.benchmarks.peers.dbos_desk DATABASE VENUE KEY SECRET THREADS NUMBER
SOCKET`; the last is the number of a listening socket that all processes share.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID, SQLAlchemyDatasource
from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.benchmarks.peers import desk

Order = dict[str, str]


class Desk:
    """The steps, bound to the ledger and the venue; a step that writes commits its rows and its own record together."""

    def __init__(self, ledger: Any, venue: desk.Venue) -> None:
        """Remember both."""
        self._ledger = ledger
        self._venue = venue

    def write(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """Run a step that writes."""

        def run() -> Any:
            return step(self._ledger.sql_session().connection().connection.cursor(), *arguments)

        return self._ledger.run_tx_step({"name": step.__name__, "isolation_level": "READ COMMITTED"}, run)

    def place(self, *arguments: Any) -> Order:
        """Run the step that places the order."""
        return DBOS.run_step({"name": "place_order"}, self._venue.place, *arguments)


def _trade(steps: Desk) -> Callable[[str, Order], str]:
    @DBOS.workflow()
    def trade(saga: str, order: Order) -> str:
        terms = steps.write(desk.validate, saga, order)
        try:
            steps.write(desk.reserve, saga, order, terms)
            steps.write(desk.check_risk, saga, order, terms)
            fill = DBOS.run_step({"name": "confirm_fill"}, desk.confirm, steps.place(saga, order, terms))
        except desk.RefusedError:
            steps.write(desk.take_back, saga, order, terms)
            return "ABORTED"
        steps.write(desk.settle, saga, order, terms, fill)
        return "COMPLETED"

    return trade


def _door(trade: Callable[[str, Order], str]) -> Callable[..., Awaitable[None]]:
    """Make the ASGI application: it answers 202 once the workflow is stored."""

    def start(saga: str, order: Order) -> None:
        with SetWorkflowID(saga):
            DBOS.start_workflow(trade, saga, order)

    async def application(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        order = json.loads(body)
        await asyncio.to_thread(start, desk.identify(order), order)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    return application


def main(database: str, venue: Sequence[str], threads: int, number: int, socket: int) -> None:
    """Serve until SIGTERM; `venue` is its URL, a key and a secret."""
    DBOS(
        config=DBOSConfig(
            name="desk", system_database_url=database, sys_db_pool_size=2 * threads, max_executor_threads=threads,
            executor_id=f"desk-{number}", application_version="1", log_level="ERROR",
        )
    )  # fmt: skip
    url = database.replace("postgresql://", "postgresql+psycopg://")
    ledger = SQLAlchemyDatasource.create(url, {"pool_size": threads})
    trade = _trade(Desk(ledger, desk.Venue(*venue)))
    DBOS.launch()
    config = Config()
    config.bind = [f"fd://{socket}"]
    config.loglevel = "ERROR"
    print("ready", flush=True)  # noqa: T201
    asyncio.run(serve(_door(trade), config))  # pyright: ignore[reportArgumentType]
    DBOS.destroy()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:5], *map(int, sys.argv[5:8]))
