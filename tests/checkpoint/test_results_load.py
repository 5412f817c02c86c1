"""A converted directory is loaded as any other is: by transformers without a missing or left-over tensor, and by vLLM."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import FAMILIES, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hal.devices.cpu import CpuAccelerator
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.rollout.choose import vllm_unavailable_reason

GROUPED_QUERIES = ("llama", "qwen2", "qwen3", "qwen3_moe")
LATENT = ("deepseek_v3", "moonlight")
GROUPED_QUERY_SIZES = {"hidden_size": 128, "head_dim": 32}
LATENT_SIZES = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 64, "v_head_dim": 64}
"""Such as vLLM computes on CPU."""
PROMPTS = [[7, 23, 5, 42, 11], [1, 2, 3], [60, 0, 60, 0, 60, 31, 9], [17]]
ONE_TOKEN_PROMPTS = [[token] for token in range(61)]


def there_and_back(directory: Path, family: str, **options: Any) -> tuple[Path, Path]:
    """A model's directory, and what it is after both conversions, in several files."""
    hf, mcore, back = directory / "hf", directory / "mcore", directory / "back"
    write_model(hf, family, **options)
    convert_hf_to_mcore(hf, mcore, progress=False)
    convert_mcore_to_hf(mcore, back, progress=False, max_file_bytes=40_000)
    return hf, back


def load_strictly(directory: Path) -> torch.nn.Module:
    """Without one tensor missing, left over, of another shape or newly made."""
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_loads_the_result_whole_and_computes_the_same(tmp_path, family, tied):
    hf, back = there_and_back(tmp_path, family, tied=tied)
    assert len(list(back.glob("model-*.safetensors"))) > 1
    ids = torch.arange(61)[None]
    with torch.no_grad():
        logits = [load_strictly(directory)(ids).logits for directory in (hf, back)]
    assert torch.equal(*logits)
    tokenizers = [AutoTokenizer.from_pretrained(directory) for directory in (hf, back)]
    assert tokenizers[0].encode("5 17 60 0") == tokenizers[1].encode("5 17 60 0") != []


@pytest.mark.parametrize("family", LATENT)
def test_transformers_loads_a_model_that_kept_its_layers_for_multi_token_prediction(tmp_path, family):
    hf, mcore, back = tmp_path / "hf", tmp_path / "mcore", tmp_path / "back"
    write_model(hf, family, tied=False, mtp=1)
    convert_hf_to_mcore(hf, mcore, mtp="keep", progress=False)
    convert_mcore_to_hf(mcore, back, mtp="keep", progress=False)
    ids = torch.arange(61)[None]
    with torch.no_grad():
        assert torch.equal(*[AutoModelForCausalLM.from_pretrained(d)(ids).logits for d in (hf, back)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("families", "sizes", "prompts", "num_tokens"),
    # On CPU, vLLM's latent attention turns queries wrongly at every position but the first.
    [(GROUPED_QUERIES, GROUPED_QUERY_SIZES, PROMPTS, 12), (LATENT, LATENT_SIZES, ONE_TOKEN_PROMPTS, 1)],
    ids=["grouped_queries", "latent_attention"],
)
def test_vllm_loads_the_result_and_chooses_the_tokens_that_transformers_chooses(
    tmp_path, families, sizes, prompts, num_tokens
):
    reason = vllm_unavailable_reason(CpuAccelerator())
    if reason is not None:
        pytest.skip(reason)
    results = []
    for family in families:
        (tmp_path / family).mkdir()
        results.append(there_and_back(tmp_path / family, family, tied=False, **sizes)[1])
    program = Path(__file__).with_name("vllm_generates.py")
    command = [sys.executable, str(program), str(num_tokens), json.dumps(prompts), *map(str, results)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    chosen = json.loads(done.stdout.splitlines()[-1])
    assert len(chosen) == len(families)
    for family, directory, generated in zip(families, results, chosen, strict=True):
        model = load_strictly(directory)
        assert generated == [greedy(model, ids, num_tokens) for ids in prompts], family


def greedy(model: torch.nn.Module, prompt: list[int], num_tokens: int) -> list[int]:
    """The continuation by transformers, one forward pass a token."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(num_tokens):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[0, len(prompt) :].tolist()
