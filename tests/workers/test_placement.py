from mindrl.workers.placement import Slot, in_order_of_rank


def test_ranks_count_through_the_drivers_node_and_then_the_others_by_address():
    slots = [Slot(0, "c"), Slot(1, "a"), Slot(2, "b"), Slot(3, "a"), Slot(4, "b"), Slot(5, "c")]
    addresses = {"a": "10.0.0.9", "b": "10.0.0.3", "c": "10.0.0.1"}
    ordered = in_order_of_rank(slots, addresses, first="b")
    assert [(slot.node_id, slot.bundle) for slot in ordered] == [
        ("b", 2), ("b", 4), ("c", 0), ("c", 5), ("a", 1), ("a", 3)
    ]  # fmt: skip
