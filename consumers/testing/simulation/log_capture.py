"""Logs during a simulation: dropped, or, where a schedule is told, part of its trace."""

from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from tradesaga.consumers.testing.simulation.loop import current

if TYPE_CHECKING:
    from tradesaga.consumers.testing.simulation.world import World

_LEVEL_OF_NOTHING = 50


@contextmanager
def silent_logs(world: "World | None") -> Generator[None]:
    """Send structlog's events into the world's trace, or nowhere, while the context is open."""
    former = structlog.get_config()

    def note(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        if world is not None:
            told = {name: value for name, value in event.items() if name not in {"event", "exc_info", "saga_id"}}
            world.note(current().name, "log:", event.get("event"), *(f"{name}={value}" for name, value in told.items()))
        raise structlog.DropEvent

    level = 0 if world is not None else _LEVEL_OF_NOTHING
    wrapper = structlog.make_filtering_bound_logger(level)
    structlog.configure(processors=[note], wrapper_class=wrapper, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**former)
