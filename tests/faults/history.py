"""What the clients were told: the history by which the run is judged, whatever the servers say of themselves."""

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

Told = Literal["ok", "fail", "unknown"]


@dataclass
class Request:
    """One request to start a saga, and every answer to it in their order; a repeat is the same request again."""

    saga_id: str
    key: str
    account: str
    door: str
    plan: dict[str, str]
    told: list[Told] = field(default_factory=list[Told])
    odd: list[str] = field(default_factory=list[str])
    """Answers that nobody should have got, such as another saga's id."""

    @property
    def result(self) -> Told:
        """Give what the client may rely on: once it is told ok, it is ok."""
        if "ok" in self.told:
            return "ok"
        return "unknown" if not self.told or "unknown" in self.told else "fail"

    @property
    def id(self) -> UUID:
        """Give the saga's id."""
        return UUID(self.saga_id)


@dataclass
class History:
    """All requests by saga, and the conflicts: other requests under a key that was taken."""

    requests: dict[str, Request] = field(default_factory=dict[str, Request])
    conflicts: int = 0
    repeats: int = 0

    def count(self, result: Told) -> int:
        """Count the requests that came to this."""
        return sum(request.result == result for request in self.requests.values())
