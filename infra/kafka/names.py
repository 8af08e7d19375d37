"""Names of topics and groups where several installations share one cluster.

Inside an installation a topic is called `trade.events` everywhere: in rows, audit leaves, exports and messages. On the
cluster its name has the installation's prefix, `desk7.trade.events`. Only the Kafka clients translate.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

_PREFIX: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A label of a DNS name, as Kubernetes wants of a resource's name. It has no dot: the first dot ends the prefix."""


def is_prefix(text: str) -> bool:
    """Return whether names may begin with this text and a dot."""
    return _PREFIX.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as one installation sees it: where it answers, and the prefix of the installation's names there.

    Written `HOST:PORT,HOST:PORT/PREFIX`, as ZooKeeper writes its chroot; without a prefix the slash is left out. A
    client that is given such an address without it being parsed cannot connect.
    """

    bootstrap: str
    prefix: str = ""

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read an address. Raises `ValueError` where its prefix is none."""
        bootstrap, slash, prefix = address.partition("/")
        if slash and not is_prefix(prefix):
            raise ValueError(f"{prefix!r} is no prefix of topics")
        return cls(bootstrap, prefix)

    def __str__(self) -> str:
        """Write the address."""
        return f"{self.bootstrap}/{self.prefix}" if self.prefix else self.bootstrap

    def physical(self, name: str) -> str:
        """Return what the cluster calls a topic or group of this installation."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def logical(self, name: str) -> str:
        """Return what this installation calls a topic or group of the cluster. Raises `ValueError` if not its own."""
        if not self.owns(name):
            raise ValueError(f"{name} does not begin with the prefix {self.prefix}")
        return name[len(self.prefix) + 1 :] if self.prefix else name

    def owns(self, name: str) -> bool:
        """Return whether a topic or group of the cluster has this installation's prefix; without one all have."""
        return not self.prefix or name.startswith(f"{self.prefix}.")


def physical_name(address: str, name: str) -> str:
    """Return what the cluster at this address calls a topic or group."""
    return Cluster.parse(address).physical(name)
