"""The verified score of replies: the mean of what a verifier says, prompt by prompt."""

import pytest

from llmkit import config
from llmkit.eval.metrics.exact_match import ExactMatch
from llmkit.eval.metrics.verified import Verified


def measure(cls, opened, **settings):
    return cls(config.resolve(cls.Settings, settings)).measure(opened)


def test_greedy_and_exact_it_is_the_exact_match(world, opened):
    ours = {"verifier": {"name": "exact"}, "temperature": 0, "max_new": 8, "limit": 0}
    found = measure(Verified, opened, name="verified", data=str(world / "chats"), **ours)
    same = measure(ExactMatch, opened, name="exact_match", data=str(world / "chats"), max_new=8, limit=0)
    assert [row["value"] for row in found.rows] == [row["value"] for row in same.rows]
    assert found.figures["verified"] == same.figures["exact_match"]


def test_drawn_replies_are_the_same_for_the_same_model_and_averaged_by_prompt(world, opened):
    settings = {"verifier": {"name": "format", "pattern": ".*[aeiou].*"}, "samples": 3, "max_new": 4}
    found = measure(
        Verified, opened, name="verified", data=str(world / "chats"), before=str(world / "run"), **settings
    )
    assert {round(3 * row["value"], 6) for row in found.rows} <= {0.0, 1.0, 2.0, 3.0}
    assert 0 < found.figures["verified"] < 1
    assert found.figures["gain"] == 0
    assert found.figures["verified"] == pytest.approx(sum(r["value"] for r in found.rows) / len(found.rows))
