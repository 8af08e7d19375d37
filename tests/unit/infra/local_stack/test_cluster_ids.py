"""Ids of Kafka clusters are such that Kafka's own tool takes them."""

from tradesaga.infra.local_stack.kafka import new_cluster_id


def test_no_id_can_be_taken_for_an_option() -> None:
    """One random id in 64 would begin with a dash, and the stack would not come up."""
    ids = {new_cluster_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert not any(each.startswith("-") for each in ids)
    assert {len(each) for each in ids} == {22}
