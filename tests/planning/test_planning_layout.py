"""Who sits where, and which samples go to whom."""

from hypothesis import given
from hypothesis import strategies as st
from megatron.core.parallel_state import RankGenerator

from mindrl.planning import BatchPlan, Topology

sizes = st.sampled_from([1, 2, 3, 4])


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    tensor, pipeline, data, per_node = (draw(sizes) for _ in range(4))
    nodes = tensor * pipeline * data
    world = nodes * per_node
    engine = draw(st.sampled_from([size for size in range(1, world + 1) if world % size == 0]))
    return Topology(world, per_node, tensor, pipeline, engine)


@given(topologies())
def test_groups_are_the_ones_that_megatron_forms_by_default(topology: Topology):
    generator = RankGenerator(
        tp=topology.tensor_parallel_size,
        ep=1,
        dp=topology.data_parallel_size,
        pp=topology.pipeline_parallel_size,
        cp=1,
        order="tp-cp-ep-dp-pp",
    )
    coordinates = {
        "tp": ("tensor_parallel_rank", topology.tensor_parallel_size),
        "pp": ("pipeline_parallel_rank", topology.pipeline_parallel_size),
        "dp": ("data_parallel_rank", topology.data_parallel_size),
    }
    for axis, (coordinate, size) in coordinates.items():
        for group in generator.get_ranks(axis):
            assert [getattr(topology.places[rank], coordinate) for rank in group] == list(range(size))


@given(topologies())
def test_every_device_of_every_node_has_one_rank_and_every_engine_its_shards(topology: Topology):
    places = topology.places
    assert [place.rank for place in places] == list(range(topology.world_size))
    assert len({(place.node, place.device) for place in places}) == topology.world_size
    assert {place.device for place in places} == set(range(topology.devices_per_node))
    shards = {(place.engine_index, place.engine_rank) for place in places}
    assert shards == {(e, r) for e in range(topology.num_engines) for r in range(topology.engine_size)}


def test_two_nodes_of_four_with_tensor_parallel_pairs():
    """The example of the docs: 8 devices, TP 2, PP 2, so DP 2; engines of 4 devices."""
    topology = Topology(
        world_size=8, devices_per_node=4, tensor_parallel_size=2, pipeline_parallel_size=2, engine_size=4
    )
    seen = [
        (
            p.node,
            p.device,
            p.tensor_parallel_rank,
            p.data_parallel_rank,
            p.pipeline_parallel_rank,
            p.engine_index,
        )
        for p in topology.places
    ]
    assert seen == [
        (0, 0, 0, 0, 0, 0),
        (0, 1, 1, 0, 0, 0),
        (0, 2, 0, 1, 0, 0),
        (0, 3, 1, 1, 0, 0),
        (1, 0, 0, 0, 1, 1),
        (1, 1, 1, 0, 1, 1),
        (1, 2, 0, 1, 1, 1),
        (1, 3, 1, 1, 1, 1),
    ]


@st.composite
def batch_plans(draw: st.DrawFn) -> BatchPlan:
    ranks, micro, micros_per_rank, mini_batches = (draw(sizes) for _ in range(4))
    samples = ranks * micro * micros_per_rank
    n_samples = draw(st.sampled_from([n for n in range(1, samples + 1) if samples % n == 0]))
    mini_batch_size = samples // n_samples
    return BatchPlan(mini_batch_size * mini_batches, n_samples, mini_batch_size, micro, ranks, total_steps=5)


@given(batch_plans())
def test_every_sample_is_trained_on_exactly_once_a_step(plan: BatchPlan):
    trained = [i for mini_batch in plan.mini_batches for shard in mini_batch for i in shard]
    assert sorted(trained) == list(range(plan.num_samples))
    by_rank = [i for rank in range(plan.data_parallel_size) for i in plan.samples_of_rank(rank)]
    assert sorted(by_rank) == list(range(plan.num_samples))


@given(batch_plans())
def test_ranks_do_equal_work_in_whole_micro_batches(plan: BatchPlan):
    assert len(plan.mini_batches) == plan.num_mini_batches
    for mini_batch in plan.mini_batches:
        assert len(mini_batch) == plan.data_parallel_size
        assert {len(shard) for shard in mini_batch} == {plan.num_micro_batches * plan.micro_batch_size}


@given(batch_plans())
def test_a_group_is_never_cut_by_a_mini_batch(plan: BatchPlan):
    for index, mini_batch in enumerate(plan.mini_batches):
        prompts = {i // plan.n_samples for shard in mini_batch for i in shard}
        first = index * plan.mini_batch_size
        assert prompts == set(range(first, first + plan.mini_batch_size))


def test_the_batch_arithmetic_of_the_module_page():
    plan = BatchPlan(
        num_prompts=4,
        n_samples=2,
        mini_batch_size=2,
        micro_batch_size=1,
        data_parallel_size=2,
        total_steps=10,
    )
    assert plan.mini_batches == (((0, 2), (1, 3)), ((4, 6), (5, 7)))
    assert plan.samples_of_rank(1) == (1, 3, 5, 7)
    assert (plan.num_micro_batches, plan.optimizer_steps) == (2, 20)
    assert plan.num_samples == 8
