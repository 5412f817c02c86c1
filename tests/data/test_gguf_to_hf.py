"""examples/data/gguf_to_hf.py: a GGUF file becomes the Hugging Face directory that it was once made from."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mindrl.data.stop_tokens import stop_token_ids
from mindrl.errors import RequestError
from mindrl.weight_maps import read_architecture

gguf = pytest.importorskip("gguf", reason="needs the package gguf: requirements/install.sh --dev has it")

SCRIPT = Path(__file__).parents[2] / "examples" / "data" / "gguf_to_hf.py"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["1 2", "h e", "he y"]
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "he", "hey"]
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def model_to_write() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
            tie_word_embeddings=True,
        )
    )


def interleaved(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of q or k in GGUF's order: dimension i of a head's first half, then dimension i of its second half."""
    heads = weight.reshape(num_heads, -1, weight.shape[-1])
    size = heads.shape[1]
    order = [half * size // 2 + i for i in range(size // 2) for half in (0, 1)]
    return heads[:, order].reshape(weight.shape)


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        values, parts = parameter.detach().numpy(), name.split(".")
        if name.endswith("q_proj.weight"):
            values = interleaved(values, model.config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = interleaved(values, model.config.num_key_value_heads)
        if parts[1] == "layers":
            tensors[f"blk.{parts[2]}.{LAYER['.'.join(parts[3:-1])]}.weight"] = values
        else:
            tensors[{"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[parts[1]]] = values
    return tensors


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    quantized: str | None = None,
    scaling: str | None = None,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if scaling is not None:
        writer.add_string("llama.rope.scaling.type", scaling)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(50000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT)
    for name, values in tensors.items():
        if name == quantized:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gguf_to_hf", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gguf_to_hf = script()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with one quantized matrix, written as GGUF and converted."""
    folder = tmp_path_factory.mktemp("gguf")
    tensors = gguf_tensors(model_to_write())
    source = write_gguf(folder / "model.gguf", tensors, quantized="blk.1.ffn_up.weight")
    gguf_to_hf.convert(source, folder / "hf")
    return folder / "hf"


def test_every_weight_comes_back_where_it_was(converted: Path):
    wanted = model_to_write().state_dict()
    found = AutoModelForCausalLM.from_pretrained(converted).state_dict()
    assert found.keys() == wanted.keys()
    quantized = "model.layers.1.mlp.up_proj.weight"
    assert [n for n in wanted if n != quantized and not torch.equal(found[n], wanted[n])] == []


def test_a_quantized_matrix_is_what_the_format_says_it_is(converted: Path):
    name = "model.layers.1.mlp.up_proj.weight"
    kind = gguf.GGMLQuantizationType.Q8_0
    original = model_to_write().state_dict()[name].numpy()
    wanted = gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind)
    found = AutoModelForCausalLM.from_pretrained(converted).state_dict()[name].numpy()
    assert np.array_equal(found, wanted)
    assert not np.array_equal(found, original)


def test_the_tokenizer_splits_numbers_into_digits_and_keeps_everything_else(converted: Path):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("hey12") == ["hey", "1", "2"]  # the merge of 1 and 2 is never reached
    text = "<|im_start|>hey, 123\n  ünï<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_model_ends_by_its_own_closing_token_and_chats_by_its_own_template(converted: Path):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert stop_token_ids(converted) == (2,)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hey"}], tokenize=False)
    assert chat == "<|im_start|>hey<|im_end|>"
    assert tokenizer.encode(chat, add_special_tokens=False) == [1, TOKENS.index("hey"), 2]


def test_training_reads_the_directory(converted: Path):
    architecture = read_architecture(converted)
    assert architecture.tied_embeddings
    assert (architecture.rope_theta, architecture.vocab_size) == (50000.0, len(TOKENS))


@pytest.mark.parametrize(
    ("tensor", "change", "reason"),
    [
        ("output_norm.weight", {"architecture": "gemma3"}, "'gemma3'"),
        ("output_norm.weight", {"pre": "tekken"}, "'tekken'"),
        ("output_norm.weight", {"scaling": "yarn"}, "rotary embedding is scaled .yarn"),
        ("blk.0.attn_sinks.weight", {}, "blk.0.attn_sinks.weight"),
    ],
    ids=["architecture", "tokenizer", "rotary scaling", "tensor"],
)
def test_what_it_does_not_understand_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, tensor: str, change: dict[str, str], reason: str
):
    source = write_gguf(tmp_path / "a.gguf", {tensor: np.zeros((2, 2), np.float32)}, **change)
    with pytest.raises(RequestError, match=reason):
        gguf_to_hf.convert(source, tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize("source", ["nowhere.gguf", "no_such_package", "json"])
def test_a_source_that_is_neither_a_file_nor_a_package_with_one_is_refused(source: str):
    with pytest.raises(RequestError, match=source):
        gguf_to_hf.find_gguf(source)


def test_a_refusal_is_one_line_and_code_2(tmp_path: Path):
    command = [sys.executable, str(SCRIPT), "nowhere.gguf", "--output-dir", str(tmp_path / "hf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (2, "gguf_to_hf: nowhere.gguf: no such file\n")
