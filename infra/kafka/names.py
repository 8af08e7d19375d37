"""Names of topics and groups where several installations share one cluster.

Inside an installation a topic is called `trade.events` everywhere: in rows, audit leaves, exports and messages. On the
cluster its name has the installation's prefix: `desk7.trade.events`. Only the Kafka clients translate names.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

_PREFIX: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label, as Kubernetes requires of resource names. It has no dot: the first dot ends the prefix."""


def is_prefix(text: str) -> bool:
    """Return whether this text is a valid prefix."""
    return _PREFIX.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as one installation uses it: its addresses and the prefix of the installation's names.

    Written `HOST:PORT,HOST:PORT/PREFIX`, like ZooKeeper's chroot; without a prefix the slash is omitted. A client that
    is passed such an address unparsed cannot connect.
    """

    bootstrap: str
    prefix: str = ""

    @classmethod
    def parse(cls, address: str) -> Self:
        """Parse an address. Raises `ValueError` for an invalid prefix."""
        bootstrap, slash, prefix = address.partition("/")
        if slash and not is_prefix(prefix):
            raise ValueError(f"{prefix!r} is not a valid topic prefix")
        return cls(bootstrap, prefix)

    def __str__(self) -> str:
        """Write the address."""
        return f"{self.bootstrap}/{self.prefix}" if self.prefix else self.bootstrap

    def physical(self, name: str) -> str:
        """Return the physical name of a topic or group of this installation."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def logical(self, name: str) -> str:
        """Return the logical name of a topic or group. Raises `ValueError` if it is not this installation's."""
        if not self.owns(name):
            raise ValueError(f"{name} does not begin with the prefix {self.prefix}")
        return name[len(self.prefix) + 1 :] if self.prefix else name

    def owns(self, name: str) -> bool:
        """Return whether a topic or group of the cluster has this installation's prefix; without one all have."""
        return not self.prefix or name.startswith(f"{self.prefix}.")


def physical_name(address: str, name: str) -> str:
    """Return the physical name of a topic or group on the cluster at this address."""
    return Cluster.parse(address).physical(name)
