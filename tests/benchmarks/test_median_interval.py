"""The interval of a median that the measurement of sealing tells."""

import random

import pytest

from tests.benchmarks.sealing import median_interval


def test_nine_values_give_the_second_and_the_eighth() -> None:
    """Whatever their order: 1 - 2 (1 + 9) / 512."""
    values = [float(each) for each in range(9)]
    random.Random(7).shuffle(values)
    low, high, confidence = median_interval(values)
    assert (low, high) == (1.0, 7.0)
    assert confidence == pytest.approx(0.9609, abs=1e-4)


def test_few_values_say_how_little_they_know() -> None:
    """Two give their span, with even odds; one gives itself, and nothing is known."""
    assert median_interval([2.0, 1.0]) == (1.0, 2.0, 0.5)
    assert median_interval([2.0]) == (2.0, 2.0, 0.0)


def test_it_holds_the_median_as_often_as_it_says() -> None:
    """Of a skewed distribution, over many draws."""
    draw = random.Random(11)
    hits = 0
    for _ in range(4000):
        low, high, _ = median_interval([draw.expovariate(1.0) for _ in range(9)])
        hits += low <= 0.6931 <= high
    assert hits / 4000 == pytest.approx(0.9609, abs=0.015)
