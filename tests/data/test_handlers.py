"""Handlers: question and answer in the layouts that public data sets come in."""

from pathlib import Path
from typing import Any

import pytest

from mindrl.config.loading import load_section
from mindrl.data.columns import MISSING, find_value
from mindrl.data.handlers import MapKeys, Question, find_handler
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.errors import RequestError

ROOT = Path(__file__).parents[2]
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "{form} where $Answer is the answer to the problem.\n\nWhat is $1+1$?\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


def handle(name: str, row: dict[str, Any]) -> Question | str:
    """What the handler of a shipped yaml makes of a row."""
    config = load_section(
        PreprocessConfig,
        ROOT / "configs" / "datasets" / f"{name}.yaml",
        ["input=x.json", "output_prefix=y", "tokenizer_name_or_path=z"],
    )
    return find_handler(config.handler_name)(row, config.map_keys)


@pytest.mark.parametrize(
    ("name", "row", "prompt", "answer"),
    [
        ("gsm8k", {"question": "q", "answer": "so\n#### 1,072"}, "q", "1072"),
        ("gsm8k", {"prompt": [], "extra_info": {"question": "q", "answer": "#### 7"}}, "q", "7"),
        ("math_lighteval", {"problem": "q", "solution": r"\boxed{1} \boxed{\sqrt{2}}"}, "q", r"\sqrt{2}"),
        ("math500", {"problem": "q", "answer": "5", "solution": ""}, "q", "5"),
        ("deepscaler", {"problem": "q", "answer": "5", "solution": ""}, "q", "5"),
        (
            "dapo_math_17k",
            {
                "prompt": [{"role": "user", "content": DAPO.replace("{form}", r"\boxed{$Answer}")}],
                "label": "2",
            },
            "What is $1+1$?",
            "2",
        ),
        (
            "dapo_math_17k",
            {
                "prompt": [{"content": DAPO.replace("{form}", "$Answer (without quotes)"), "role": "user"}],
                "reward_model": {"ground_truth": "2", "style": "rule"},
            },
            "What is $1+1$?",
            "2",
        ),
        ("dapo_math_17k", {"prompt": "What is $1+1$?", "solution": "2"}, "What is $1+1$?", "2"),
        ("aime", {"problem": "q", "answer": "033"}, "q", "33"),
        ("aime", {"Problem": "q", "Answer": 204}, "q", "204"),
        ("aime", {"problem": "q", "answer": "000"}, "q", "0"),
        (
            "orz",
            {
                "0": {"from": "human", "value": "q"},
                "1": {"from": "assistant", "ground_truth": {"value": "7"}},
            },
            "q",
            "7",
        ),
    ],
)
def test_published_layouts_give_question_and_answer(name: str, row: dict[str, Any], prompt: str, answer: str):
    assert handle(name, row) == Question(prompt, "", answer)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("gsm8k", {"question": "q", "answer": "no mark 5"}, "no_answer"),
        ("math_lighteval", {"problem": "q", "solution": r"\boxed{1"}, "no_answer"),
        ("deepscaler", {"problem": "q", "answer": ""}, "no_answer"),
        ("deepscaler", {"problem": "q", "answer": float("nan")}, "no_answer"),
        ("deepscaler", {"problem": " \n", "answer": "1"}, "empty_prompt"),
        ("deepscaler", {"problem": "q"}, "bad_row"),
        ("aime", {"problem": "q", "answer": "1000"}, "no_answer"),
        ("aime", {"problem": "q", "answer": r"\pi"}, "no_answer"),
        ("dapo_math_17k", {"prompt": [{"role": "user", "content": 5}], "label": "2"}, "bad_row"),
        ("dapo_math_17k", {"prompt": [{"role": "assistant", "content": "x"}], "label": "2"}, "bad_row"),
        ("dapo_math_17k", {"prompt": [], "label": "2"}, "empty_prompt"),
        ("orz", {"0": {"from": "human", "value": "q"}, "1": {"from": "assistant"}}, "bad_row"),
    ],
)
def test_rows_without_them_get_a_reason(name: str, row: dict[str, Any], reason: str):
    assert handle(name, row) == reason


def test_chat_messages_give_their_system_message_too():
    row = {
        "prompt": [{"role": "system", "content": "be brief"}, {"from": "human", "value": "q"}],
        "answer": 1,
    }
    keys = MapKeys(prompt="prompt", response="answer")
    assert find_handler("generic")(row, keys) == Question("q", "be brief", "1")


@pytest.mark.parametrize(
    ("places", "value"),
    [
        ("a", 1),
        ("n.x.1.y", "deep"),
        ("dotted.name", 2),
        ("none|a", 1),
        ("null|a", 1),
        ("null", None),
        ("null|none", None),
        ("none|n.x.9", MISSING),
        ("a.b", MISSING),
    ],
)
def test_a_place_is_a_column_a_path_or_the_first_of_several_that_holds_something(places: str, value: Any):
    row = {"a": 1, "n": {"x": [0, {"y": "deep"}]}, "dotted.name": 2, "null": None}
    assert find_value(row, places) is value or find_value(row, places) == value


def test_a_handler_of_ones_own_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_handlers.py").write_text(
        "from mindrl.data.handlers import Question\n"
        "def shout(row, keys):\n    return Question(row['q'].upper(), '', row['a'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    keys = MapKeys(prompt="q", response="a")
    assert find_handler("own_handlers:shout")({"q": "why", "a": "1"}, keys) == Question("WHY", "", "1")
    with pytest.raises(RequestError, match="no function shuot; did you mean own_handlers:shout"):
        find_handler("own_handlers:shuot")
    with pytest.raises(RequestError, match="can't import nowhere"):
        find_handler("nowhere:shout")
