"""Wrong definitions: each line with a comment must be refused, for the reason in it, and no other line."""

from tests.unit.sagas import shop as s
from tradesaga.sagas import saga, seconds, step
from tradesaga.schemas.messages.message import Event

begun = saga("shop", version=1, deadline=seconds(5))
packed = begun.then(s.pack)

packed.then(s.ship)  # error: Packed
packed.then(s.thank)  # error: Shipped
begun.also(s.pack)  # error: Cannot access attribute "also"
packed.then(s.ship).then(s.label)  # error: Packed

step("a", on=s.Ordered, emits=s.Packed, compensate=s.Unpack)  # error: No overloads for "step"
step("b", on=s.Ordered, emits=s.Packed, compensated=s.Unpacked)  # error: No overloads for "step"
step("c", on=s.Ordered, emits=s.Packed, compensate=s.Unpacked, compensated=s.Unpacked)  # error: Compensation
step("d", on=s.Ordered, emits=s.Packed, compensate=s.Unpack, compensated=s.Unpack)  # error: Event
step("e", on=s.Unpack, emits=s.Packed)  # error: Event
step("f", on=s.Ordered, emits=s.Unpack)  # error: Event
step("g", on="Ordered", emits=s.Packed)  # error: Literal\['Ordered'\]
step("h", on=s.Ordered, emits=s.Packed, timeout=5)  # error: timedelta
step("i", on=s.Ordered)  # error: No overloads for "step"
saga("shop", version="1", deadline=seconds(5))  # error: "int"
saga("shop", deadline=seconds(5))  # error: "version"


class Held(Event):
    """A value."""

    amount: str


Held(quantity="1")  # error: "quantity"
