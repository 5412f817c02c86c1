"""What holds for every model of every family, by random configurations: odd sizes, groups, experts, dense layers, ranks."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrl.planning.parameters import model_parameters
from mindrl.weight_maps import TensorRule, WeightMap, architecture_of, extra_state_keys, weight_map

small = st.integers(1, 5)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A config.json of any family."""
    family = draw(st.sampled_from(["llama", "qwen2", "qwen3", "qwen3_moe", "deepseek_v3"]))
    groups, layers = draw(small), draw(st.integers(1, 4))
    config = {
        "model_type": family,
        "num_hidden_layers": layers,
        "hidden_size": draw(st.integers(1, 11)),
        "intermediate_size": draw(st.integers(1, 11)),
        "num_attention_heads": groups * draw(st.integers(1, 4)),
        "num_key_value_heads": groups,
        "head_dim": draw(small),
        "vocab_size": draw(st.integers(1, 23)),
        "max_position_embeddings": 8,
        "tie_word_embeddings": draw(st.booleans()),
    }
    experts = draw(st.integers(1, 6))
    mixture = {"moe_intermediate_size": draw(small), "num_experts_per_tok": draw(st.integers(1, experts))}
    if family == "qwen3_moe":
        dense = draw(st.lists(st.integers(0, layers - 1), max_size=layers, unique=True))
        step = {"decoder_sparse_step": draw(st.integers(1, 2))}
        config |= mixture | step | {"num_experts": experts, "mlp_only_layers": dense}
    if family == "deepseek_v3":
        config |= mixture | {
            "num_key_value_heads": config["num_attention_heads"],
            "q_lora_rank": draw(st.none() | small),
            "kv_lora_rank": draw(small),
            "qk_nope_head_dim": draw(small),
            "qk_rope_head_dim": 2 * draw(small),
            "v_head_dim": draw(small),
            "n_routed_experts": experts,
            "n_shared_experts": draw(st.integers(0, 2)),
            "first_k_dense_replace": draw(st.integers(0, layers)),
            "num_nextn_predict_layers": draw(st.integers(0, 2)),
        }
    return config


@st.composite
def maps(draw: st.DrawFn) -> WeightMap:
    architecture = architecture_of(draw(configs()))
    return weight_map(architecture, mtp=architecture.num_mtp_layers > 0 and draw(st.booleans()))


def numbered(rule: TensorRule) -> list[torch.Tensor]:
    """The rule's sources, no two values alike."""
    start, tensors = 0, []
    for source in rule.hf:
        tensors.append(torch.arange(start, start + torch.Size(source.shape).numel()).view(source.shape))
        start += tensors[-1].numel()
    return tensors


@given(maps())
@settings(max_examples=200)
def test_every_value_is_in_the_megatron_tensor_once_and_comes_back_to_its_place(weights: WeightMap):
    for rule in weights.rules:
        sources = numbered(rule)
        full = rule.merge(sources)
        assert full.shape == rule.megatron_shape
        assert full.flatten().sort()[0].equal(torch.arange(full.numel()))
        for source, tensor, (name, back) in zip(rule.hf, sources, rule.split(full), strict=True):
            assert name == source.name
            assert back.equal(tensor)


@given(maps(), st.integers(1, 6))
@settings(max_examples=200)
def test_parts_of_any_number_of_ranks_are_disjoint_and_make_up_the_tensor_or_are_refused(
    weights: WeightMap, size: int
):
    for rule in weights.rules:
        full = rule.merge(numbered(rule))
        halves = 2 if rule.partition == "gated_rows" else 1
        length = {"columns": full.shape[-1], "replicated": size}.get(rule.partition, full.shape[0] // halves)
        if length % size:
            with pytest.raises(ValueError, match=f"can't be cut into {size} equal parts"):
                rule.shard(full, 0, size)
            continue
        shards = [rule.shard(full, rank, size) for rank in range(size)]
        assert rule.unshard(shards).equal(full)
        if rule.partition != "replicated":
            assert sum(shard.numel() for shard in shards) == full.numel()


@given(maps())
@settings(max_examples=200)
def test_a_rank_has_whole_groups_of_heads_and_the_rows_of_gate_and_up_that_belong_together(
    weights: WeightMap,
):
    arch = weights.architecture
    for rule in weights.rules:
        if rule.partition == "gated_rows":
            gate, up = numbered(rule)
            for rank, (ours, theirs) in enumerate(zip(gate, up, strict=True)):
                shard = rule.shard(rule.merge([gate, up]), rank, len(gate))
                assert shard.equal(torch.stack([ours, theirs]))
        if "linear_qkv" in rule.megatron_name:
            heads = [t.unflatten(0, (arch.num_kv_heads, -1)) for t in numbered(rule)]
            full = rule.merge(numbered(rule))
            for rank in range(arch.num_kv_heads):
                assert rule.shard(full, rank, arch.num_kv_heads).equal(torch.cat([h[rank] for h in heads]))


@given(maps())
@settings(max_examples=200)
def test_names_are_unique_and_every_stack_in_a_checkpoint_is_full(weights: WeightMap):
    assert len(weights.by_megatron_name) == len(weights.rules)
    assert len(weights.by_hf_name) == len(weights.hf_tensors)
    keys = extra_state_keys(weights)
    assert len(set(keys)) == len(keys)
    shapes: dict[str, set[tuple[int, ...]]] = {}
    filled: Counter[str] = Counter()
    places = set()
    for rule in weights.rules:
        for key in (rule.checkpoint_key, *rule.other_keys):
            shapes.setdefault(key, set()).add(rule.checkpoint_shape)
            filled[key] += torch.Size(rule.megatron_shape).numel()
            places.add((key, rule.stacked_at))
            assert all(place.index < place.size for place in rule.stacked_at)
    assert all(len(found) == 1 for found in shapes.values())
    assert len(places) == sum(1 + len(rule.other_keys) for rule in weights.rules)
    assert filled == {key: torch.Size(*found).numel() for key, found in shapes.items()}


@given(configs())
@settings(max_examples=200)
def test_what_is_left_out_and_what_is_kept_make_up_the_files(config: dict[str, Any]):
    architecture = architecture_of(config)
    without = weight_map(architecture)
    assert without.num_parameters == model_parameters(architecture).total
    assert without.copies == {}
    assert not any(without.leaves_out(source.name) for source in without.hf_tensors)
    if architecture.num_mtp_layers == 0:
        return
    with_mtp = weight_map(architecture, mtp=True)
    further = {source.name for source in with_mtp.hf_tensors} - {source.name for source in without.hf_tensors}
    assert with_mtp.rules[: len(without.rules)] == without.rules
    assert further
    assert all(without.leaves_out(name) for name in (*further, *with_mtp.copies))
    shapes = {source.name: source.shape for source in with_mtp.hf_tensors}
    assert with_mtp.copies.keys().isdisjoint(shapes)
    assert all(original in shapes for original in with_mtp.copies.values())
