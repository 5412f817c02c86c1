"""More prompt tokens than an engine computes at once."""

from collections.abc import Callable

from conftest import MAX_MODEL_LENGTH, Served
from rollout_models import largest_gap, named_tensors, requests

from mindrl.rollout.engine import generate


def test_prompts_that_exceed_what_the_engine_computes_at_once_are_served(
    serve: Callable[..., Served],
) -> None:
    """With a seed for each request, as in training: vLLM on CPU can't compute such a prompt in pieces."""
    served = serve("vllm", "qwen2", tied=True, engine_args={"max_num_batched_tokens": MAX_MODEL_LENGTH})
    served.engine.update_weights(named_tensors(served.model), 0)
    asked = requests(16)
    assert sum(len(request.prompt_ids) for request in asked) > 2 * MAX_MODEL_LENGTH
    assert largest_gap(served.model, generate(served.engine, asked), 1.0) < 1e-4
