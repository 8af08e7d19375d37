"""A small user's saga with a branch and a join: an order is packed and paid at once, then shipped."""

from tradesaga.sagas import saga, seconds, step
from tradesaga.schemas.messages.message import Compensation, Event


class Ordered(Event):
    """The start."""


class Packed(Event):
    """The goods are in the box."""


class SoldOut(Event):
    """There is nothing to pack."""


class Unpack(Compensation):
    """Put the goods back."""


class Unpacked(Event):
    """The goods are on the shelf."""


class Paid(Event):
    """The card is charged."""


class Declined(Event):
    """The card is refused."""


class Refund(Compensation):
    """Give the money back."""


class Refunded(Event):
    """The money is back."""


class Labelled(Event):
    """The box has a label."""


class Unlabel(Compensation):
    """Cancel the label."""


class Unlabelled(Event):
    """The label is void."""


class Shipped(Event):
    """The parcel is gone."""


class Thanked(Event):
    """The customer has a mail."""


pack = step("pack", on=Ordered, emits=Packed, rejects=SoldOut, compensate=Unpack, compensated=Unpacked)
pay = step("pay", on=Ordered, emits=Paid, rejects=Declined, compensate=Refund, compensated=Refunded)
label = step("label", on=(Packed, Paid), emits=Labelled, compensate=Unlabel, compensated=Unlabelled)
ship = step("ship", on=Labelled, emits=Shipped)
thank = step("thank", on=Shipped, emits=Thanked)

shop = saga("shop", version=1, deadline=seconds(30)).then(pack).also(pay).also(label).then(ship).then(thank)
returnable = saga("returnable", version=1, deadline=seconds(30)).then(pack).also(pay).also(label)
promises = saga("promises", version=1, deadline=seconds(30)).then(step("ship", on=Ordered, emits=Shipped)).then(thank)
