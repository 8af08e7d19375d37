"""Ports for servers of the stack."""

from itertools import count

import pytest

from tradesaga.infra.local_stack import ports


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several are chosen before the first server listens: a port that is still free is not given again."""
    first = ports.free_port()
    drawn = count(first - ports.LOWEST)

    def draw(_: int) -> int:
        return next(drawn)

    monkeypatch.setattr(ports.secrets, "randbelow", draw)
    assert ports.free_port() > first
