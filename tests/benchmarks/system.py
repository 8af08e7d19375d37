"""What the comparison asks of every system."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import psutil

from tests.benchmarks.load import Kind, Load, Ran, Told
from tests.benchmarks.stage import Stage


class Running(Protocol):
    """A system that has been started."""

    @property
    def services(self) -> Sequence[psutil.Process]:
        """The processes that run the saga's steps and, where it is the system's own, its server."""
        ...

    @property
    def servers(self) -> Sequence[psutil.Process]:
        """The servers of the stage that it uses."""
        ...

    def written(self) -> float:
        """Give the bytes that it has had written up to now."""
        ...

    def run(self, load: Load) -> Ran:
        """Start the sagas and wait for their ends."""
        ...

    def look(self, ran: Ran) -> Told:
        """Ask the system's records what became of the sagas; this is no part of what they cost."""
        ...


class System(Protocol):
    """One system in one configuration."""

    @property
    def name(self) -> str:
        """How the table calls it."""
        ...

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of saga that it knows."""
        ...

    @property
    def paced(self) -> bool:
        """Say whether it is measured at open rates too."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """What was tuned or switched, and the versions used."""
        ...

    def sagas(self, kind: Kind) -> int:
        """Give how many sagas a load flat out should have, so that it lasts some seconds."""
        ...

    def running(self, stage: Stage) -> AbstractContextManager[Running]:
        """Run the system while the body lasts."""
        ...
