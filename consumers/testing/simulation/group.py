"""A consumer group: generations, eager rebalances, members that are late and members that are gone without a word."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tradesaga.infra.kafka.connections import Place

if TYPE_CHECKING:
    from tradesaga.consumers.testing.simulation.broker import SimBroker
    from tradesaga.consumers.testing.simulation.member import SimConsumer

HEARTBEAT: Final = 0.4
"""Seconds within which a member hears of a rebalance, or of its own expulsion."""
FIRST_DELAY: Final = 0.3
"""Seconds for which a group that is new waits for its first members."""
REBALANCE_LIMIT: Final = 4.0
"""Seconds for which a rebalance waits for its members."""


class Group:
    """One group at its coordinator."""

    def __init__(self, broker: "SimBroker", name: str) -> None:
        self._broker = broker
        self.name = name
        self.generation = 0
        self.rebalances = 0
        self.offsets: dict[Place, int] = {}
        self.metadata: dict[Place, str] = {}
        self.members: list[SimConsumer] = []
        self.former: list[SimConsumer] = []
        """Members that were expelled and may not know it."""
        self._joining: dict[SimConsumer, asyncio.Future[set[Place]]] = {}
        self._timer: Any = None

    def knows(self, member: "SimConsumer") -> bool:
        """Say whether a commit of this member would be taken."""
        if member.broker_mood.reuses_generation:
            return True
        return member in self.members and member.generation == self.generation

    def join(self, member: "SimConsumer") -> "asyncio.Future[set[Place]]":
        """Take a member in, or in again; the future resolves when all are there, or are given up."""
        future = self._broker.loop.create_future()
        self._joining[member] = future
        if member not in self.members:
            self.members.append(member)
        if self._timer is None:
            self._timer = self._later(REBALANCE_LIMIT if self.generation else FIRST_DELAY, self._give_up_on_others)
            self._tell_others()
        if self.generation:
            self._complete_if_all_there()
        return future

    def leave(self, member: "SimConsumer") -> None:
        """Let a member go, by its own word or because nothing is heard of it."""
        self._joining.pop(member, None)
        if member not in self.members:
            return
        self.members.remove(member)
        self.former.append(member)
        self.rebalance()
        self._complete_if_all_there()

    def rebalance(self) -> None:
        """Have all members join anew."""
        if self._timer is None and self.members:
            self._timer = self._later(REBALANCE_LIMIT, self._give_up_on_others)
            self._tell_others()

    def heartbeat(self, member: "SimConsumer") -> None:
        """Tell a member that has stood still where it stands, at its next heartbeat."""
        if member not in self.members or self._timer is not None:
            self._later(HEARTBEAT * self._broker.loop.chance.random(), member.hear)

    def _later(self, seconds: float, function: Any) -> Any:
        loop = self._broker.loop
        return loop.outside.run(loop.call_later, seconds, function)

    def _tell_others(self) -> None:
        for member in self.members:
            if member not in self._joining:
                self._later(HEARTBEAT * self._broker.loop.chance.random(), member.hear)

    def _give_up_on_others(self) -> None:
        for member in [member for member in self.members if member not in self._joining]:
            self.members.remove(member)
            self.former.append(member)
        self._complete_if_all_there()
        if self._timer is not None and not self.members:
            self._timer = None

    def _complete_if_all_there(self) -> None:
        if self._timer is None or not self.members or len(self._joining) < len(self.members):
            return
        self._timer.cancel()
        self._timer = None
        self.generation += 1
        self.rebalances += 1
        joining, self._joining = self._joining, {}
        chance = self._broker.loop.chance
        members = sorted(self.members, key=lambda member: member.name)
        if chance.random() < 0.5:  # noqa: PLR2004 - a coin: who gets which partitions changes from time to time
            members.reverse()
        for member, future in joining.items():
            member.generation = self.generation
            if not future.done():
                future.set_result(self._share(members, member))

    def _share(self, members: list["SimConsumer"], member: "SimConsumer") -> set[Place]:
        """Give a member its range of each topic."""
        index, count = members.index(member), len(members)
        each, extra = divmod(self._broker.partitions, count)
        first = index * each + min(index, extra)
        last = first + each + (index < extra)
        return {(topic, number) for topic in member.topics for number in range(first, last)}
