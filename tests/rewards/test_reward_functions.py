"""What each reward function accepts."""

import pytest

from mindrl.errors import RequestError
from mindrl.rewards import score


@pytest.mark.parametrize(
    ("response", "expected"),
    [("0134", 1.0), (" 0134\n", 1.0), ("so \\boxed{0134}", 1.0), ("01340", 0.0), ("is 0134", 0.0), ("", 0.0)],
)
def test_exact_match_takes_the_whole_response_or_what_is_boxed(response: str, expected: float):
    assert score("exact_match", response=response, ground_truth="0134") == expected


@pytest.mark.parametrize(
    ("response", "ground_truth", "expected"),
    [
        ("\\boxed{\\frac12}", "0.5", 1.0),
        ("\\boxed{\\frac{1}{3}}", "0.5", 0.0),
        ("first \\boxed{7}, no: \\boxed{\\frac{6}{2}}", "3", 1.0),
        ("\\boxed{1{,}000}", "1000", 1.0),
        ("\\boxed{(1, 2)}", "(1,2)", 1.0),
        ("\\boxed{x^2+2x+1}", "(x+1)^2", 1.0),
        ("the answer is 3", "3", 0.0),
        ("\\boxed{3", "3", 0.0),
        ("\\boxed{}", "3", 0.0),
        ("\\boxed{)(}", "3", 0.0),
    ],
)
def test_boxed_math_compares_mathematics_not_text(response: str, ground_truth: str, expected: float):
    assert score("boxed_math", response=response, ground_truth=ground_truth) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("half of 2,144 is 1,072.", 1.0),
        ("it is 1072.00", 1.0),
        ("1072, I mean 3", 0.0),
        ("-1072", 0.0),
        ("none", 0.0),
    ],
)
def test_last_number_compares_values(response: str, expected: float):
    assert score("last_number", response=response, ground_truth="1072") == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("\\boxed{7}", 1.0),
        ("\\boxed{\\frac{1}{2}}", 1.0),
        ("\\boxed{ }", 0.0),
        ("\\boxed{7", 0.0),
        ("\\boxed{7} \\boxed{8}", 0.0),
        ("7", 0.0),
    ],
)
def test_boxed_format_wants_one_closed_box_with_something_in_it(response: str, expected: float):
    assert score("boxed_format", response=response, ground_truth="1") == expected


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("exact_mach", "did you mean exact_match"),
        ("no_module_of_this_name:f", "can't import no_module_of_this_name"),
        ("mindrl.rewards.text:exact_mach", "did you mean mindrl.rewards.text:exact_match"),
    ],
)
def test_an_unknown_function_is_answered_with_the_nearest(name: str, told: str):
    with pytest.raises(RequestError, match=told):
        score(name, response="1", ground_truth="1")


def test_a_function_of_ones_own_is_named_by_its_path():
    assert score("mindrl.rewards.text:exact_match", response="1", ground_truth="1") == 1.0
