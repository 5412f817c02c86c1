"""What is told before torch is imported."""

import json
from pathlib import Path

from mindrl.config import load
from mindrl.trainer.paper_checks import check_on_paper

ROOT = Path(__file__).resolve().parents[2]


def test_a_model_with_more_positions_than_the_one_for_planning_may_use_them(tmp_path: Path):
    recipe = load(ROOT / "configs/grpo_qwen3_8b.yaml", [f"model.path={tmp_path}"])
    assert recipe.model.architecture is not None
    model = json.loads((ROOT / recipe.model.architecture / "config.json").read_text())
    longer = model["max_position_embeddings"] + 1000
    (tmp_path / "config.json").write_text(json.dumps(model | {"max_position_embeddings": longer}))
    response = longer - recipe.data.max_prompt_length
    check_on_paper(
        load(
            ROOT / "configs/grpo_qwen3_8b.yaml",
            [f"model.path={tmp_path}", f"data.max_response_length={response}"],
        )
    )
