"""The json file of an evaluation; `mindrl report` reads it by these names."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mindrl.evaluation.request import EvaluationRequest
from mindrl.evaluation.standalone import ModelEvaluation

SCHEMA_VERSION = 1
QUOTED_ANSWERS = 64
"""Answers per model that the file quotes; figures are of all of them."""


def as_json(request: EvaluationRequest, models: Sequence[ModelEvaluation]) -> dict[str, object]:
    """What was asked, then per model its figures and first answers."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": str(request.dataset),
        "rewards": list(request.rewards),
        "temperature": request.temperature,
        "n_samples": request.n_samples,
        "correct_at": request.correct_at,
        "seed": request.seed,
        "results": [_model(evaluation) for evaluation in models],
    }


def write(path: Path, content: Mapping[str, object]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _model(model: ModelEvaluation) -> dict[str, object]:
    result = model.evaluation.result
    answers = zip(model.evaluation.answers, model.evaluation.scored, strict=True)
    return {
        "model": str(model.model),
        "engine": model.engine,
        "seconds": model.seconds,
        "overall": {"num_prompts": result.overall.num_prompts, **result.overall.metrics()},
        "by_source": {
            name: {"num_prompts": source.num_prompts, **source.metrics()}
            for name, source in result.by_source.items()
        },
        "answers": [
            {
                "uid": answer.prompt.uid,
                "prompt": answer.prompt.prompt,
                "response": answer.response,
                "ground_truth": answer.prompt.ground_truth,
                "score": scored.score,
                "response_length": scored.response_length,
                "truncated": scored.truncated,
            }
            for answer, scored in list(answers)[:QUOTED_ANSWERS]
        ],
    }
