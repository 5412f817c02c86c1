"""Answers in boxes."""

import pytest

from mindrl.boxed import boxed_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{3} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\boxed{a\\}", "a\\\\"),
        (r"\boxed{}", ""),
        (r"\boxed{never {closed}", None),
        ("no box", None),
    ],
)
def test_the_last_box_counts_with_the_braces_inside_it(text: str, answer: str | None):
    assert last_boxed(text) == answer
    assert boxed_answer(text) == answer


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"\boxed{1} then \fbox{2}", "2"),
        (r"so $x = \boxed 2$.", "2"),
        (r"so it is \boxed 3.5.", "3.5"),
        (r"so it is \boxed 1,200, which", "1,200"),
        (r"\boxed {7}", "7"),
        (r"\boxed", None),
    ],
)
def test_solutions_also_write_other_boxes(solution: str, answer: str | None):
    assert boxed_answer(solution) == answer
