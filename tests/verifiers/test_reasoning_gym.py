"""reasoning-gym's tasks are collected with what their judges want to know, and judged in a worker."""

import json
import sys

import pytest

from llmkit.data.collect import Collect
from llmkit.data.collect import work as collect
from llmkit.errors import ConfigError
from llmkit.verifiers.contained import Contained
from llmkit.verifiers.reasoning_gym import ReasoningGym


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmkit\[gym\]'"):
        ReasoningGym(ReasoningGym.Settings())


@pytest.mark.slow
def test_right_answers_are_right_after_they_were_written_down(tmp_path):
    pytest.importorskip("reasoning_gym")
    source = {
        "name": "reasoning_gym",
        "tasks": {"chain_sum": {"max_terms": 3}, "spell_backward": {}},
        "prompts": 5,
    }
    collect(Collect(kind="conversations", source=[source], heldout_frac=0.2), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert {record["metadata"]["source_dataset"] for record in records} == {"chain_sum", "spell_backward"}
    judge = Contained(ReasoningGym.Settings(timeout_s=60, whole=True))
    assert judge.scores([(record["answer"], record) for record in records]) == [1.0] * len(records)
    assert judge.scores([("no idea", record) for record in records]) == [0.0] * len(records)
    assert not any(judge.failures.values())
