"""Faults on request: what goes wrong, for whom, how often. Each rule draws from a seeded generator of its own."""

import random
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tradesaga.schemas.amounts import Amount

Operation = Literal["place", "cancel", "query", "account", "market"]
Pattern = Annotated[str, Field(max_length=200)]


class Fault(BaseModel):
    """One rule. It strikes with `probability`; with `next`, only so many times; with the matchers, only whom they name.

    latency      waits `milliseconds` (constant, uniform up to twice, or exponential) before or after the effect
    reject       records the order as rejected, with `reason`
    partial      lets only `ratio` of the order meet the liquidity that is there at once
    lost_answer  lets the request have its effect, waits `milliseconds`, then breaks the connection without an answer
    outage       answers 503, or breaks the connection, before any effect
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
        """Refuse a rule that could never do what it says."""
        if self.ratio > 1:
            raise ValueError("ratio is a part of the order: 0 to 1")
        try:
            re.compile(self.client_order_id or "")
        except re.error as error:
            raise ValueError(f"client_order_id is no regular expression: {error}") from error
        return self

    def concerns(self, operation: Operation, account: str, client_order_id: str, symbol: str) -> bool:
        """Return whether the rule matches this request; by default, only latency and outages match any operation."""
        usual = () if self.kind in {"latency", "outage"} else ("place",)
        operations = self.operations or usual
        return (
            (not operations or operation in operations)
            and self.account in {None, account}
            and self.symbol in {None, symbol}
            and (self.client_order_id is None or re.search(self.client_order_id, client_order_id) is not None)
        )


@dataclass(slots=True)
class Plan:
    """What befalls one request; times are seconds."""

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
    chance: random.Random
    seen: int = 0
    struck: int = 0

    def strikes(self) -> bool:
        if self.fault.next is not None and self.struck >= self.fault.next:
            return False
        self.seen += 1
        if self.chance.random() >= self.fault.probability:
            return False
        self.struck += 1
        return True

    def wait(self) -> float:
        seconds = self.fault.milliseconds / 1000
        if self.fault.distribution == "uniform":
            return self.chance.uniform(0, 2 * seconds)
        if self.fault.distribution == "exponential" and seconds:
            return self.chance.expovariate(1 / seconds)
        return seconds


@dataclass(slots=True)
class FaultPlan:
    """The rules in force, and how often each has struck."""

    _rules: dict[int, _Rule] = field(default_factory=dict[int, _Rule])
    _last: int = 0

    def add(self, fault: Fault) -> int:
        """Activate a rule and return its number."""
        self._last += 1
        generator = random.Random(fault.seed)  # noqa: S311 - faults are to be repeatable, not secret
        self._rules[self._last] = _Rule(self._last, fault, generator)
        return self._last

    def clear(self, rule: int | None = None) -> None:
        """Lift one rule, or all."""
        for number in [rule] if rule is not None else list(self._rules):
            self._rules.pop(number, None)

    def strike(self, operation: Operation, account: str, client_order_id: str, symbol: str) -> Plan:
        """Decide what befalls a request."""
        plan = Plan()
        for rule in self._rules.values():
            if rule.fault.concerns(operation, account, client_order_id, symbol) and rule.strikes():
                _befall(plan, rule)
        return plan

    def show(self) -> list[dict[str, Any]]:
        """List the rules with their counts."""
        return [
            {"id": rule.id, "seen": rule.seen, "struck": rule.struck, **rule.fault.model_dump(mode="json")}
            for rule in self._rules.values()
        ]


def _befall(plan: Plan, rule: _Rule) -> None:
    fault = rule.fault
    if fault.kind == "outage":
        plan.outage = fault.mode
    elif fault.kind == "reject":
        plan.reject = fault.reason
    elif fault.kind == "partial":
        plan.ratio = fault.ratio
    elif fault.kind == "lost_answer":
        plan.lose = True
        plan.after += rule.wait()
    elif fault.when == "before":
        plan.before += rule.wait()
    else:
        plan.after += rule.wait()
