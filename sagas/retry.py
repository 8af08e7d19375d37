"""When to try again."""

import math
from dataclasses import dataclass
from datetime import timedelta

from tradesaga.sagas.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class Retry:
    """Attempts and their spacing: exponential, capped, with full jitter over the last `jitter` share of each delay.

    `initial` and `maximum` are seconds. Jitter keeps a thousand sagas that failed together from coming back together.

    Raises `DefinitionError` for what is no number, or out of bounds.
    """

    attempts: int = 3
    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 5.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if type(self.attempts) is not int:
            raise DefinitionError(f"Retry: attempts={self.attempts!r} is no whole number")
        for name in ("initial", "factor", "maximum", "jitter"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise DefinitionError(f"Retry: {name}={value!r} is no finite number")
        if self.attempts < 1 or self.initial < 0 or self.factor < 1 or self.maximum < self.initial:
            raise DefinitionError(f"{self}: attempts >= 1, initial >= 0, factor >= 1 and maximum >= initial are needed")
        if not 0 <= self.jitter <= 1:
            raise DefinitionError(f"{self}: jitter is a share between 0 and 1")

    def delay(self, attempt: int, chance: float) -> timedelta:
        """Give the wait after failed `attempt` (1 is the first); `chance`, in [0, 1), is drawn by the caller."""
        whole = min(self.maximum, self.initial * self.factor ** min(attempt - 1, 64))
        return timedelta(seconds=whole * (1 - self.jitter * chance))
