"""Whether stored weights are those of a model: every tensor there, of the right shape, and in files that exist."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mindrl.checkpoint.byte_plan import StoredTensor
from mindrl.checkpoint.formats.safetensors_files import read_model
from mindrl.checkpoint.formats.torch_dist import GlobalTensor, read_directory
from mindrl.errors import RequestError
from mindrl.weight_maps import Architecture, Place, TensorRule, WeightMap, weight_map

_STACKED_LAYERS = "decoder.layers."
_LAYER = re.compile(r"decoder\.layers\.\d+\.")
_ROTARY_BUFFER = "rotary_emb.inv_freq"
"""Old Llama files hold this; it is computed, not learned."""


def check_hf_weights(arch: Architecture, hf_dir: Path) -> None:
    """`RequestError` unless the safetensors files of `hf_dir` hold the model; reads their headers only."""
    expected_tensors(weight_map(arch), read_model(hf_dir), hf_dir)


def check_checkpoint(arch: Architecture, checkpoint: Path) -> None:
    """`RequestError` unless a `torch_dist` directory holds the model; reads its metadata only."""
    saved = read_directory(checkpoint)
    weights = weight_map(arch)
    tensors = {(found := find_tensor(rule, saved, weights).tensor).key: found for rule in weights.rules}
    files = sorted({chunk.file for tensor in tensors.values() for chunk in tensor.chunks})
    missing = [name for name in files if not (checkpoint / name).is_file()]
    if missing:
        raise RequestError(
            f"{checkpoint} lacks files that its metadata names: {_some(missing)}. Copy or convert it again."
        )


def expected_tensors(
    weights: WeightMap, stored: Mapping[str, StoredTensor], hf_dir: Path
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The map's tensors out of the files, all there, of the right shape, and nothing unknown beside them."""
    notes: list[str] = []
    expected = {source.name: source for source in weights.hf_tensors}
    missing = [name for name in expected if name not in stored]
    unknown = [name for name in stored if name not in expected and not name.endswith(_ROTARY_BUFFER)]
    if weights.architecture.tied_embeddings and "lm_head.weight" in unknown:
        unknown.remove("lm_head.weight")
        _require_equal(stored["lm_head.weight"], stored["model.embed_tokens.weight"])
        notes.append("lm_head.weight is the embedding (tied), so it is stored once.")
    if missing or unknown:
        raise RequestError(
            f"The weights in {hf_dir} are not those of its config.json ({weights.architecture.model_type}, "
            f"{weights.architecture.num_layers} layers): missing {_some(missing)}; unknown {_some(unknown)}."
        )
    for name, source in expected.items():
        if stored[name].shape != source.shape:
            raise RequestError(
                f"{name} in {stored[name].path} has shape {stored[name].shape}, config.json makes it {source.shape}."
            )
    return {name: stored[name] for name in expected}, tuple(notes)


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A checkpoint's tensor, and the place of one weight in it."""

    tensor: GlobalTensor
    index: tuple[int, ...]
    """Along the leading dimensions that stack weights; the dimensions that follow are the weight's own."""


def find_tensor(rule: TensorRule, saved: Mapping[str, GlobalTensor], weights: WeightMap) -> SavedTensor:
    """The rule's tensor in the checkpoint: stacked over layers and experts, or one per layer, under any of its keys."""
    for key, places in _names(rule):
        if key not in saved:
            continue
        tensor, stack = saved[key], tuple(place.size for place in places)
        if tensor.shape[: len(stack)] != stack or not _fits(rule, tensor.shape[len(stack) :]):
            raise RequestError(
                f"Checkpoint tensor {key} has shape {tensor.shape}; config.json wants "
                f"{(*stack, *rule.megatron_shape)}. "
                "Is this the config.json of the checkpoint's model (--hf-dir)?"
            )
        return SavedTensor(tensor, tuple(place.index for place in places))
    raise RequestError(
        f"The checkpoint has no tensor {', nor '.join(key for key, _ in _names(rule))}, which a "
        f"{weights.architecture.model_type} model needs. Is this the config.json of the checkpoint's model (--hf-dir)?"
    )


def _names(rule: TensorRule) -> Iterator[tuple[str, tuple[Place, ...]]]:
    """Keys that Megatron stores the tensor under, each with what is stacked there."""
    layer = _LAYER.match(rule.megatron_name)
    for key in (rule.checkpoint_key, *rule.other_keys):
        yield key, rule.stacked_at
        if layer is not None and key.startswith(_STACKED_LAYERS):
            yield layer[0] + key.removeprefix(_STACKED_LAYERS), rule.stacked_at[1:]


def _fits(rule: TensorRule, shape: tuple[int, ...]) -> bool:
    wanted = rule.megatron_shape
    if rule.pads_vocabulary:
        return shape[1:] == wanted[1:] and shape[0] >= wanted[0]
    return shape == wanted


def _require_equal(a: StoredTensor, b: StoredTensor) -> None:
    """Compare two tensors' bytes in pieces."""
    equal = (a.shape, a.dtype) == (b.shape, b.dtype)
    with a.path.open("rb") as file_a, b.path.open("rb") as file_b:
        file_a.seek(a.offset)
        file_b.seek(b.offset)
        left = a.num_bytes
        while equal and left:
            size = min(left, 8 << 20)
            equal = file_a.read(size) == file_b.read(size)
            left -= size
    if not equal:
        raise RequestError(
            f"config.json ties the embeddings, but {a.name} differs from {b.name}: one of the two is wrong. "
            "Set tie_word_embeddings to false if both are meant."
        )


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
