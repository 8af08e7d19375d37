"""What a recovery did, and what it could not do."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Report:
    """Figures for scripts; `left_out` says in sentences what topics do not hold, and what to do about it."""

    kind: str
    incarnation: int = 0
    seconds: float = 0.0
    records: Counter[str] = field(default_factory=Counter[str])
    sagas: Counter[str] = field(default_factory=Counter[str])
    folded: int = 0
    parked: int = 0
    starts: int = 0
    adopted: Counter[str] = field(default_factory=Counter[str])
    restored: Counter[str] = field(default_factory=Counter[str])
    open_steps: Counter[str] = field(default_factory=Counter[str])
    owed: Counter[str] = field(default_factory=Counter[str])
    shortfalls: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    left_out: list[str] = field(default_factory=list[str])
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Say it for people."""
        read = f"{self.records['events']} facts and {self.records['commands']} commands"
        dry = " (dry run: nothing written)" * self.dry_run
        told = [
            f"{self.kind}: {read} in {self.seconds:.1f} s, incarnation {self.incarnation}{dry}",
            f"sagas: {_counted(self.sagas)}; {self.folded} facts folded, {self.parked} parked, {self.starts} starts",
            f"steps made anew: {_counted(self.adopted)}; to be gone on with: {_counted(self.open_steps)}",
            f"local effects made anew: {_counted(self.restored)}",
        ]
        if self.owed:
            told.append(f"to be published by the services when they start: {_counted(self.owed)}")
        told += [f"shortfall: {' '.join(each.values())}" for each in self.shortfalls]
        return told + [f"left out: {each}" for each in self.left_out]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()) if number) or "none"
