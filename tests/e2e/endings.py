"""How sagas end by their plans when everything that may fall does: the state, and the effects in their order."""

FORTH = [("book", "forward"), ("pay", "forward")]
COMPLETE = [*FORTH, ("close", "forward")]
UNDONE = [*FORTH, ("pay", "back"), ("book", "back")]
PLANS: list[tuple[dict[str, str], str, list[tuple[str, str]]]] = [
    ({}, "COMPLETED", COMPLETE),
    ({"pay": "fail:1"}, "COMPLETED", COMPLETE),
    ({"confirm": "lost"}, "ABORTED", UNDONE),
    ({"ship": "lost"}, "COMPLETED", COMPLETE),
    ({"ship": "refuse", "unpay": "fail:1"}, "ABORTED", UNDONE),
]
