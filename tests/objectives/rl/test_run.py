"""Runs from other runs: which checkpoint each net starts from, and what a policy is good for afterwards."""

from pathlib import Path

import pytest
import torch

from llmkit import manifest
from llmkit.checkpoint.fragments import Reader
from llmkit.data.collect import Collect
from llmkit.data.collect import work as collect
from llmkit.engine import run
from llmkit.models.generate import generate
from llmkit.opened import open_model
from tests import ranks
from tests.checkpoint.small import lines, newest
from tests.objectives.rl import small

SHARED = {"name": "ppo", "value": "shared"}
STILL = {"run__steps": 1, "run__eval_every": 0, "optim__lr": 0.0}


def from_others(folder: str, tokenizer: str) -> None:
    """A policy with a value head; a reward model and a PPO run that start from it."""
    root = Path(folder)
    small.lists(root / "lists")
    small.train(f"{folder}/policy", f"{folder}/lists", tokenizer, SHARED, {"run__steps": 2})
    pairs = root / "pairs"
    pairs.mkdir()
    tasks = {"name": "tasks", "kind": "pairs", "prompts": 4}
    result = collect(Collect(kind="pairs", source=[tasks], heldout_frac=0.3), pairs)
    lifted = {key: result.pop(key) for key in ("counts", "licences")}
    manifest.write(pairs, verb="data.collect", config={}, result=result, status="done", **lifted)
    start = {"init": f"{folder}/policy"}
    reward = small.recipe(
        f"{folder}/reward", str(pairs), tokenizer, {"name": "grpo"}, **start, **STILL, run__seed=7
    )
    tree = reward.model_dump(mode="json") | {
        "objective": {"name": "reward"},
        "data": {"name": "pairs", "data": str(pairs), "tokenizer": tokenizer, "seq_len": 128},
        "model": {**small.MODEL, "context": 128},
    }
    run.train(type(reward).model_validate(tree), "cpu")
    objective = {"name": "ppo", "reward_model": f"{folder}/reward", "judge": f"{folder}/reward", "kl": 0.1}
    small.train(f"{folder}/ppo", f"{folder}/lists", tokenizer, objective, {**start, **STILL})


def test_nets_start_from_the_checkpoints_that_they_are_given(tmp_path, tokenizer_dir):
    ranks.run(from_others, 1, str(tmp_path), str(tokenizer_dir))
    policy, reward, ppo = (Reader(newest(tmp_path / name)) for name in ("policy", "reward", "ppo"))
    plain = {k: v for k, v in policy.whole("model").items() if not k.startswith("value_head")}
    assert len(plain) == len(policy.whole("model")) - 1
    pairs = [(ppo.whole("model"), plain), (ppo.whole("value"), reward.whole("model"))]
    for found, expected in pairs:
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(plain["norm.weight"], torch.ones(16))
    (line,) = lines(tmp_path / "ppo")
    assert line["policy/kl"] == 0.0
    assert line["policy/judged"] == line["policy/score_reward_model"] != 0
    assert line["policy/reward"] == pytest.approx(
        line["policy/score_odd"] + line["policy/score_reward_model"], rel=1e-5
    )
    opened = open_model(tmp_path / "policy", "lm")
    assert generate(opened.net, [[1, 2, 3]], 4)
    assert open_model(tmp_path / "ppo", "lm").head == "lm"


def test_a_reply_whose_verifier_failed_counts_once_however_often_it_is_trained_on(tmp_path, tokenizer_dir):
    small.lists(tmp_path / "lists")
    broken = {"name": "grpo", "samples": 2, "epochs": 3, "rewards": [{"name": "odd", "broken": True}]}
    settings = {"run__steps": 1, "run__eval_rows": 1, "batch__rows": 1, "batch__micro_rows": 1}
    out, data = str(tmp_path / "run"), str(tmp_path / "lists")
    ranks.run(small.train, 1, out, data, str(tokenizer_dir), broken, settings)
    (line,) = lines(out)
    assert (line["failed"], line["heldout/failed"]) == (pytest.approx(2), pytest.approx(2))
