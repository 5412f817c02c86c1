"""Whether stored weights are those of a model: every tensor there, of the right shape, and in files that exist."""

from collections.abc import Mapping
from pathlib import Path

from mindrl.checkpoint.byte_plan import FP8, StoredTensor
from mindrl.checkpoint.formats.safetensors_files import read_model
from mindrl.checkpoint.saved_weights import open_checkpoint
from mindrl.checkpoint.saved_weights.same_bytes import same_bytes, whole_tile
from mindrl.errors import RequestError
from mindrl.weight_maps import Architecture, WeightMap, weight_map

_ROTARY_BUFFER = "rotary_emb.inv_freq"
"""Old Llama files hold this; it is computed, not learned."""


def check_hf_weights(arch: Architecture, hf_dir: Path) -> None:
    """`RequestError` unless the safetensors files of `hf_dir` hold the model; reads their headers only."""
    stored, _ = expected_tensors(weight_map(arch), read_model(hf_dir), hf_dir)
    quantised = [name for name, tensor in stored.items() if tensor.dtype == FP8]
    if quantised:
        raise RequestError(
            f"The weights in {hf_dir} are FP8 ({_some(quantised)}): make bfloat16 of them first, with "
            f"`mindrl convert --from-fp8 --load-dir {hf_dir} --save-dir NEW`, and give that directory."
        )


def check_checkpoint(arch: Architecture, checkpoint: Path) -> None:
    """`RequestError` unless a `torch_dist` directory holds the model; reads its metadata only."""
    with open_checkpoint(checkpoint) as saved:
        saved.require_model(weight_map(arch))


def expected_tensors(
    weights: WeightMap, stored: Mapping[str, StoredTensor], hf_dir: Path, *, compare: bool = True
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The map's tensors out of the files, all there, of the right shape, and nothing unknown beside them; and notes.

    `compare` reads tensors that files hold twice, such as tied embeddings; without it only headers count."""
    notes: list[str] = []
    expected = {source.name: source for source in weights.hf_tensors}
    missing = [name for name in expected if name not in stored]
    unknown = [
        name
        for name in stored
        if name not in expected and not name.endswith(_ROTARY_BUFFER) and not weights.leaves_out(name)
    ]
    for copy, original in weights.copies.items():
        if copy in unknown and original in stored:
            unknown.remove(copy)
            if compare:
                _require_equal(
                    stored[copy],
                    stored[original],
                    "Layers for multi-token prediction share embedding and output layer with the model",
                    " --mtp drop leaves these layers out.",
                )
    if weights.architecture.tied_embeddings and "lm_head.weight" in unknown:
        unknown.remove("lm_head.weight")
        if compare:
            _require_equal(
                stored["lm_head.weight"],
                stored["model.embed_tokens.weight"],
                "config.json ties the embeddings",
                " Set tie_word_embeddings to false if both are meant.",
            )
        notes.append("lm_head.weight is the embedding (tied), so it is stored once.")
    if missing or unknown:
        raise RequestError(
            f"The weights in {hf_dir} are not those of its config.json ({weights.architecture.model_type}, "
            f"{weights.architecture.num_layers} layers): missing {_some(missing)}; unknown {_some(unknown)}. "
            "Are config.json and weights of the same model?"
        )
    for name, source in expected.items():
        if stored[name].shape != source.shape:
            raise RequestError(
                f"{name} in {stored[name].path} has shape {stored[name].shape}, config.json makes it {source.shape}. "
                "Are config.json and weights of the same model?"
            )
    return {name: stored[name] for name in expected}, tuple(notes)


def _require_equal(a: StoredTensor, b: StoredTensor, reason: str, remedy: str) -> None:
    """The same values, and the same scales."""
    if (a.scales is None) != (b.scales is None) or not same_bytes([whole_tile(a)], [whole_tile(b)]):
        raise RequestError(
            f"{reason}, but {a.name} differs from {b.name}, in {a.path}: one of the two is wrong.{remedy}"
        )
    if a.scales is not None and b.scales is not None:
        _require_equal(a.scales, b.scales, reason, remedy)


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
