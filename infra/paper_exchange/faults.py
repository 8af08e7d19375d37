"""Fault injection: rules that delay, reject or break requests. Each rule has its own seeded random generator."""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tradesaga.schemas.amounts import Amount

Operation = Literal["place", "cancel", "query", "account", "market"]
Pattern = Annotated[str, Field(max_length=200)]


class Fault(BaseModel):
    """A rule. It applies with `probability`, at most `next` times, to the requests that match all of its matchers.

    latency      waits `milliseconds` (constant, uniform up to twice that, or exponential) before or after the request
                 takes effect
    reject       records the order as rejected, with `reason`
    partial      matches only `ratio` of the order against the liquidity available at once
    lost_answer  carries the request out, waits `milliseconds`, then breaks the connection without an answer
    outage       answers 503, or breaks the connection, before the request takes effect
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["latency", "reject", "partial", "lost_answer", "outage"]
    operations: tuple[Operation, ...] = ()
    probability: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    next: int | None = Field(default=None, ge=1)
    account: str | None = None
    client_order_id: Pattern | None = None
    symbol: str | None = None
    seed: int = 0
    milliseconds: float = Field(default=0.0, ge=0, le=600_000, allow_inf_nan=False)
    distribution: Literal["constant", "uniform", "exponential"] = "constant"
    when: Literal["before", "after"] = "before"
    reason: str = Field(default="Rejected by the venue's fault plan.", max_length=200)
    ratio: Amount = Decimal("0.5")
    mode: Literal["503", "close"] = "503"

    @model_validator(mode="after")
    def works(self) -> Self:
        """Check that the rule can be applied."""
        if self.ratio > 1:
            raise ValueError("ratio is a part of the order: 0 to 1")
        try:
            re.compile(self.client_order_id or "")
        except re.error as error:
            raise ValueError(f"client_order_id is not a regular expression: {error}") from error
        return self

    def concerns(self, operation: Operation, account: str, client_order_id: str, symbol: str) -> bool:
        """Return whether the rule matches this request; by default, only latency and outages match any operation."""
        operations = self.operations or (() if self.kind in {"latency", "outage"} else ("place",))
        return (
            (not operations or operation in operations)
            and self.account in {None, account}
            and self.symbol in {None, symbol}
            and (self.client_order_id is None or re.search(self.client_order_id, client_order_id) is not None)
        )


@dataclass(slots=True)
class Effects:
    """What the faults do to one request; times are seconds."""

    outage: Literal["503", "close"] | None = None
    before: float = 0.0
    after: float = 0.0
    lose: bool = False
    reject: str | None = None
    ratio: Decimal | None = None


@dataclass(slots=True)
class _Rule:
    id: int
    fault: Fault
    generator: random.Random
    seen: int = 0
    struck: int = 0

    def strikes(self) -> bool:
        if self.fault.next is not None and self.struck >= self.fault.next:
            return False
        self.seen += 1
        if self.generator.random() >= self.fault.probability:
            return False
        self.struck += 1
        return True

    def wait(self) -> float:
        seconds = self.fault.milliseconds / 1000
        if self.fault.distribution == "uniform":
            return self.generator.uniform(0, 2 * seconds)
        if self.fault.distribution == "exponential" and seconds:
            return self.generator.expovariate(1 / seconds)
        return seconds

    def add_to(self, effects: Effects) -> None:
        fault = self.fault
        match fault.kind:
            case "outage":
                effects.outage = fault.mode
            case "reject":
                effects.reject = fault.reason
            case "partial":
                effects.ratio = fault.ratio
            case "latency" if fault.when == "before":
                effects.before += self.wait()
            case "latency":
                effects.after += self.wait()
            case "lost_answer":
                effects.lose = True
                effects.after += self.wait()


class FaultPlan:
    """The active rules, and how often each has been applied."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._rules: dict[int, _Rule] = {}
        self._last = 0
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> int:
        """Activate a rule and return its number."""
        self._last += 1
        generator = random.Random(fault.seed)  # noqa: S311 - faults must be repeatable, not secret
        self._rules[self._last] = _Rule(self._last, fault, generator)
        return self._last

    def clear(self, rule: int | None = None) -> None:
        """Remove one rule, or all."""
        if rule is None:
            self._rules.clear()
        else:
            self._rules.pop(rule, None)

    def apply(self, operation: Operation, account: str, client_order_id: str, symbol: str) -> Effects:
        """Return what the rules do to a request, and count it."""
        effects = Effects()
        for rule in self._rules.values():
            if rule.fault.concerns(operation, account, client_order_id, symbol) and rule.strikes():
                rule.add_to(effects)
        return effects

    def show(self) -> list[dict[str, Any]]:
        """List the rules with their counts."""
        return [
            {"id": rule.id, "seen": rule.seen, "struck": rule.struck, **rule.fault.model_dump(mode="json")}
            for rule in self._rules.values()
        ]
