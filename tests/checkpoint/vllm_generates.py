"""Loads Hugging Face directories into vLLM as anyone would: python vllm_generates.py NUM_TOKENS PROMPTS DIRECTORY...

PROMPTS is a JSON list of lists of token ids. Prints one JSON list on stdout: of each directory, the greedy continuation
of each prompt by NUM_TOKENS."""

import contextlib
import gc
import json
import os
import sys

from hal.devices.cpu import CpuAccelerator
from mindrl.rollout.choose import engine_environment

os.environ.update(engine_environment(CpuAccelerator()))
os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def main() -> None:
    from vllm import LLM, SamplingParams

    num_tokens, prompts = int(sys.argv[1]), json.loads(sys.argv[2])
    sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True, detokenize=False)
    generated: list[list[list[int]]] = []
    for directory in sys.argv[3:]:
        with contextlib.redirect_stdout(sys.stderr):
            llm = LLM(
                directory,
                dtype="float32",  # by itself it would round float32 weights to a smaller type
                enforce_eager=True,
                max_model_len=64,
                max_num_seqs=4,
                kv_cache_memory_bytes=1 << 24,
            )
            outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        generated.append([list(output.outputs[0].token_ids) for output in outputs])
        del llm
        gc.collect()
    print(json.dumps(generated))


if __name__ == "__main__":
    main()
