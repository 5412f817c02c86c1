"""Who sits where, and which samples go to whom."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from megatron.core.parallel_state import RankGenerator

from mindrl.planning import BatchPlan, Topology

sizes = st.sampled_from([1, 2, 3])


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    tensor, context, pipeline, data, per_node = (draw(sizes) for _ in range(5))
    nodes = tensor * context * pipeline * data
    world = nodes * per_node
    peers = world // (tensor * pipeline)
    expert = draw(st.sampled_from([size for size in range(1, peers + 1) if peers % size == 0]))
    engine = draw(st.sampled_from([size for size in range(1, world + 1) if world % size == 0]))
    return Topology(world, per_node, tensor, pipeline, engine, context, expert)


def groups(topology: Topology, *coordinates: str) -> set[tuple[int, ...]]:
    """Ranks that agree in every coordinate but the given ones."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place in topology.places:
        fixed = tuple(getattr(place, f"{name}_rank") for name in coordinates)
        found.setdefault(fixed, []).append(place.rank)
    return {tuple(group) for group in found.values()}


def megatron_groups(generator: RankGenerator, axes: str) -> set[tuple[int, ...]]:
    return {tuple(sorted(group)) for group in generator.get_ranks(axes)}


@given(topologies())
def test_groups_are_the_ones_that_megatron_forms_by_default(topology: Topology):
    """Megatron makes them with two generators, one for the experts and one for everything else."""
    dense = RankGenerator(
        tp=topology.tensor_parallel_size,
        ep=1,
        dp=topology.data_parallel_size,
        pp=topology.pipeline_parallel_size,
        cp=topology.context_parallel_size,
        order="tp-cp-ep-dp-pp",
    )
    expert = RankGenerator(
        tp=topology.tensor_parallel_size,
        ep=topology.expert_parallel_size,
        dp=topology.expert_data_parallel_size,
        pp=topology.pipeline_parallel_size,
        cp=1,
        order="tp-cp-ep-dp-pp",
    )
    tp, cp, dp, pp = "tensor_parallel", "context_parallel", "data_parallel", "pipeline_parallel"
    ep, expert_dp = "expert_parallel", "expert_data_parallel"
    assert megatron_groups(dense, "tp") == groups(topology, cp, dp, pp)
    assert megatron_groups(dense, "cp") == groups(topology, tp, dp, pp)
    assert megatron_groups(dense, "dp") == groups(topology, tp, cp, pp)
    assert megatron_groups(dense, "pp") == groups(topology, tp, cp, dp)
    assert megatron_groups(dense, "tp-pp") == groups(topology, cp, dp)
    assert megatron_groups(dense, "dp-cp") == groups(topology, tp, pp)
    assert megatron_groups(expert, "ep") == groups(topology, tp, expert_dp, pp)
    assert megatron_groups(expert, "dp") == groups(topology, tp, ep, pp)
    assert megatron_groups(expert, "tp-ep-pp") == groups(topology, expert_dp)


@given(topologies())
def test_ranks_within_a_group_are_numbered_in_the_order_of_the_group(topology: Topology):
    sizes_of = {
        "tensor_parallel_rank": topology.tensor_parallel_size,
        "context_parallel_rank": topology.context_parallel_size,
        "data_parallel_rank": topology.data_parallel_size,
        "pipeline_parallel_rank": topology.pipeline_parallel_size,
    }
    dense = [tuple(getattr(place, name) for name in sizes_of) for place in topology.places]
    assert dense == sorted(dense, key=lambda c: (c[3], c[2], c[1], c[0]))
    assert set(dense) == set(product(*(range(size) for size in sizes_of.values())))
    expert = [
        (
            place.pipeline_parallel_rank,
            place.expert_data_parallel_rank,
            place.expert_parallel_rank,
            place.tensor_parallel_rank,
        )
        for place in topology.places
    ]
    assert expert == sorted(expert)
    assert len(set(expert)) == topology.world_size


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
