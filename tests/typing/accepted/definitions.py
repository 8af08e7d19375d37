"""Chains whose types fit, and what follows from the options of a step."""

from typing import Never, assert_type

from tests.unit.sagas import shop as s
from tradesaga.sagas import Retry, Saga, Step, saga, seconds, step
from tradesaga.sagas.step import CompensatableStep

pack = step("pack", on=s.Ordered, emits=s.Packed, rejects=s.SoldOut, compensate=s.Unpack, compensated=s.Unpacked)
ship = step("ship", on=s.Packed, emits=s.Shipped, retry=Retry(attempts=50))
pivot = step("pivot", on=s.Ordered, emits=s.Packed, rejects=s.SoldOut)
sure = step("sure", on=s.Ordered, emits=s.Packed, compensate=s.Unpack, compensated=s.Unpacked)

assert_type(pack, CompensatableStep[s.Ordered, s.Packed, s.SoldOut, s.Unpack, s.Unpacked])
assert_type(ship, Step[s.Packed, s.Shipped, Never])
assert_type(pivot, Step[s.Ordered, s.Packed, s.SoldOut])
assert_type(sure, CompensatableStep[s.Ordered, s.Packed, Never, s.Unpack, s.Unpacked])

chain = saga("shop", version=1, deadline=seconds(5)).then(pack).then(ship)
assert_type(chain, Saga[s.Shipped])
branched = saga("shop", version=1, deadline=seconds(5)).then(s.pack).also(s.pay).also(s.label).then(s.ship)
assert_type(branched, Saga[s.Shipped])
