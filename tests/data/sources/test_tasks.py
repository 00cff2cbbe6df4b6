from collections import Counter

import pytest

from llmkit import config
from llmkit.data.sources.tasks import KINDS, Tasks
from llmkit.errors import ConfigError


def records(**settings):
    return list(Tasks(Tasks.Settings(**settings)).records())


def test_the_same_seed_makes_the_same_records():
    assert records(prompts=20) == records(prompts=20)
    assert records(prompts=20) != records(prompts=20, seed=2)


def test_no_prompt_of_a_kind_comes_twice():
    asked = Counter((r["source"], r["messages"][0]["content"]) for r in records(prompts=200))
    assert max(asked.values()) == 1
    assert {source for source, _ in asked} == {f"tasks/{kind}" for kind in KINDS}


def test_the_reply_is_the_answer():
    assert all(r["messages"][1] == {"role": "assistant", "content": r["answer"]} for r in records(prompts=50))


def test_a_wrong_answer_is_wrong_and_as_often_longer_as_shorter():
    pairs = records(kind="pairs", prompts=200)
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    longer = sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)
    shorter = sum(len(pair["chosen"]) < len(pair["rejected"]) for pair in pairs)
    assert abs(longer - shorter) < 0.05 * len(pairs)


def test_kinds_can_be_left_out_and_unknown_ones_are_refused():
    sources = {record["source"] for record in records(prompts=5, without=["sum", "count"])}
    assert sources == {f"tasks/{kind}" for kind in KINDS if kind not in ("sum", "count")}
    with pytest.raises(ConfigError, match="there is no kind of task called sums"):
        config.resolve(Tasks.Settings, {"without": ["sums"]})
