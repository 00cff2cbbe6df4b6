import pytest
import torch

from llmkit.eval.metrics.answers import likeliest, same, shared


@pytest.mark.parametrize(
    ("said", "right", "exact", "f1"),
    [
        ("The Denver Broncos!", "Denver Broncos", True, 1.0),
        ("Broncos of Denver", "Denver Broncos", False, 0.8),
        ("an apple a day", "apple", False, 2 / 3),
        ("so so", "so", False, 2 / 3),
        ("", "word", False, 0.0),
        ("the", "a", True, 1.0),
    ],
)
def test_answers_are_compared_by_the_rules_of_squad(said, right, exact, f1):
    assert same(said, right) == exact
    assert shared(said, right) == pytest.approx(f1)


def test_an_end_is_not_before_its_beginning_nor_too_far_behind_it():
    logits = torch.tensor([[0.0, 9.0], [5.0, 0.0], [0.0, 1.0], [0.0, 4.0]])
    assert likeliest(logits, 30) == (9.0, 0, 0)
    logits[0, 1] = -9.0
    assert likeliest(logits, 30) == (9.0, 1, 3)
    assert likeliest(logits, 2) == (6.0, 1, 2)
