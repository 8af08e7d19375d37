"""Faults strike whom they name, as often as they say, and the same way for the same seed."""

import asyncio
import statistics
import time
from typing import Any

import pytest

from tests.integration.infra.paper_exchange.process import PaperProcess, soon
from tradesaga.infra.paper_exchange.faults import Effects, Fault, FaultPlan


def strikes(rule: dict[str, Any], count: int = 200) -> list[Effects]:
    """Let a rule strike so many placements."""
    plan = FaultPlan()
    plan.add(Fault.model_validate(rule))
    return [plan.apply("place", "desk", f"n{number}", "EURUSD") for number in range(count)]


def test_probability_is_seeded() -> None:
    """One seed gives one sequence; a tenth means about a tenth."""
    rule = {"kind": "reject", "probability": 0.1, "seed": 7}

    first, again = strikes(rule, 2000), strikes(rule, 2000)

    assert first == again
    assert 150 < sum(plan.reject is not None for plan in first) < 250
    assert strikes(rule | {"seed": 8}, 2000) != first


def test_next_strikes_so_often_and_no_more() -> None:
    """`next` counts what was struck, and stops."""
    assert [plan.lose for plan in strikes({"kind": "lost_answer", "next": 3}, 6)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("matcher", "struck"),
    [
        ({"client_order_id": "^n1$"}, 1),
        ({"account": "desk"}, 20),
        ({"account": "another"}, 0),
        ({"symbol": "GOOG"}, 0),
        ({"operations": ["cancel"]}, 0),
    ],
)
def test_matchers_choose_whom(matcher: dict[str, Any], struck: int) -> None:
    """A rule strikes only those that all of its matchers name."""
    plans = strikes({"kind": "reject", **matcher}, 20)

    assert sum(plan.reject is not None for plan in plans) == struck


@pytest.mark.parametrize("distribution", ["constant", "uniform", "exponential"])
def test_latency_has_its_mean(distribution: str) -> None:
    """Whatever the distribution, the mean is what was asked for."""
    plans = strikes({"kind": "latency", "milliseconds": 100, "distribution": distribution, "seed": 1}, 4000)

    assert 0.09 < statistics.mean(plan.before for plan in plans) < 0.11


async def test_faults_are_listed_counted_and_lifted(paper: PaperProcess) -> None:
    """At run time rules are added, their strikes counted, and taken away again."""
    await paper.fault(kind="reject", client_order_id="^bad", reason="as planned")
    answers = [await paper.place(name, 20) for name in ("bad-1", "good", "bad-2")]
    rules = await paper.admin("GET", "faults")
    metrics = await paper.text("/metrics")
    await paper.admin("DELETE", f"faults?id={rules[0]['id']}")
    after = await paper.place("bad-3", 20)

    assert [answer.status for answer in answers] == [400, 200, 400]
    assert answers[0].body == {"code": -2010, "msg": "as planned"}
    assert (rules[0]["seen"], rules[0]["struck"]) == (2, 2)
    assert 'tradesaga_venue_faults_total{kind="reject"} 2.0' in metrics
    assert after.status == 200


async def test_outage_closes_every_door_it_names(paper: PaperProcess) -> None:
    """An outage without operations is one of everything but the admin's endpoints."""
    await paper.fault(kind="outage")

    async with asyncio.timeout(5):
        text = await paper.text("/api/v3/time")
    await paper.admin("DELETE", "faults")

    assert text == "Service Unavailable"
    assert (await paper.send("GET", "time")).status == 200


async def test_latency_delays_the_answer_alone(paper: PaperProcess) -> None:
    """Latency of one request holds up no other."""
    await paper.fault(kind="latency", milliseconds=3000, client_order_id="^slow$", operations=["place"])
    start = time.monotonic()

    slow = asyncio.create_task(paper.place("slow", 20))
    await asyncio.sleep(0.1)
    await paper.place("fast", 20)
    fast_was_first = not slow.done()
    await slow

    assert fast_was_first
    assert time.monotonic() - start >= 3


async def test_partial_fill_leaves_the_rest_to_rest(paper: PaperProcess) -> None:
    """A limit order struck by a partial fill rests with what is left, in whole lots."""
    await paper.fault(kind="partial", ratio="0.333", next=1)

    answer = await paper.place("part", 100, "1.2")

    assert (answer.body["status"], answer.body["executedQty"]) == ("PARTIALLY_FILLED", "33.00000000")


async def test_faults_may_be_given_at_the_start(paper: PaperProcess) -> None:
    """`--faults` takes a JSON list of the same rules."""
    paper.stop()
    paper.options = ["--faults", '[{"kind":"reject","reason":"from the start","next":1}]']
    paper.start()

    assert (await paper.place("first", 20)).body["msg"] == "from the start"
    assert (await paper.place("second", 20)).status == 200


async def test_market_runs_at_the_pace_asked_for(paper: PaperProcess) -> None:
    """Bars close by themselves at the given speed; 0 holds the market still."""
    await paper.admin("POST", "market", {"speed": 50})

    async def moved() -> bool:
        return bool((await paper.admin("GET", "market"))["symbols"]["EURUSD"]["bar"] > 5)

    await soon(moved)
    held = await paper.admin("POST", "market", {"speed": 0})
    await asyncio.sleep(0.2)
    later = await paper.admin("GET", "market")

    assert later["symbols"]["EURUSD"]["bar"] - held["symbols"]["EURUSD"]["bar"] <= 1
