"""Real runs of a mixture: interrupted twice, across an epoch of a part, they end bit for bit the same."""

import json

import pytest

from llmkit import config
from llmkit.checkpoint import fragments
from llmkit.checkpoint.store import Store
from llmkit.data import ledger
from llmkit.data.sets.mixture import Mixture
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import ConfigError

STEPS = 14


@pytest.fixture(scope="module")
def parts(special_shards):
    masked = {"name": "documents", "shards": special_shards, "seq_len": 64, "noise": {"name": "masked"}}
    return {"low": masked, "high": {**masked, "noise": {"name": "masked", "rate": 0.3}}}


def trained(out, parts, steps, **data):
    tree = {
        "run": {"out": str(out), "steps": steps, "log_every": 1, "ledger": True, "eval_rows": 4},
        "model": {"name": "encoder", "width": 16, "layers": 1, "heads": 2, "context": 64},
        "objective": {"name": "masked"},
        "data": {"name": "mixture", "parts": parts, "weights": {"low": 0.8, "high": 0.2}, **data},
        "batch": {"rows": 24},
        "schedule": {"name": "constant", "warmup_frac": 0.0},
        "parallel": {"compile": "off", "precision": "fp32", "threads": 1},
    }
    run.train(config.resolve(TrainRecipe, tree), device="cpu")


def weights(out):
    newest = Store(out / "checkpoints", 2, 1, 0, lambda value: [value]).newest()
    return fragments.Reader(newest).whole("model")


@pytest.mark.slow
def test_two_interruptions_change_no_bit_and_the_ledger_has_every_sample_once(parts, tmp_path):
    for steps in (5, 9, STEPS):
        trained(tmp_path / "broken", parts, steps)
    trained(tmp_path / "straight", parts, STEPS)
    broken, straight = (weights(tmp_path / name) for name in ("broken", "straight"))
    assert all(broken[name].equal(straight[name]) for name in straight)
    books = [ledger.read(tmp_path / name / "ledger") for name in ("broken", "straight")]
    assert books[0] == books[1]
    settings = Mixture.Settings(parts=parts, weights={"low": 0.8, "high": 0.2})
    mixture = Mixture(settings, "train", 1)
    assert len(mixture.parts["low"]) < 24 * STEPS * 0.8  # an epoch ended
    assert ledger.faults(books[0], mixture.groups.values()) == []
    assert len(list((tmp_path / "broken" / "ledger").iterdir())) == 3
    last = json.loads((tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"heldout/low/accuracy", "heldout/high/accuracy", "heldout/accuracy"} <= set(last)


def test_a_staged_run_cannot_be_made_longer_afterwards(parts, tmp_path):
    stages = [{"after": 0.5, "weights": {"high": 1}}]
    trained(tmp_path / "run", parts, 2, stages=stages)
    with pytest.raises(ConfigError, match="data.rows"):
        trained(tmp_path / "run", parts, 4, stages=stages)
