"""Heads of chains: what is put aside on disk is found again."""

from uuid import uuid4

from tradesaga.consumers.audit.log.log_check import ChainHeads


def test_heads_beyond_the_limit_are_kept_on_disk() -> None:
    """The last one put counts, wherever the one before is; what is taken is gone."""
    sagas = [uuid4() for _ in range(50)]
    heads = ChainHeads({sagas[0]: (7, b"given")}, limit=8)
    for seq in (1, 2):
        for saga_id in sagas[1:]:
            heads.put(saga_id, (seq, saga_id.bytes))
    assert heads.get(sagas[0]) == (7, b"given")
    assert all(heads.get(saga_id) == (2, saga_id.bytes) for saga_id in sagas[1:])
    assert sorted(heads) == sorted(sagas)
    assert heads.take(sagas[1]) == (2, sagas[1].bytes)
    assert heads.get(sagas[1]) is None
    assert sagas[1] not in set(heads)
    heads.close()
    assert list(heads) == []
