"""Answers of a frozen net on disk: the same training as with the net in memory, reused, and never stale."""

import json
import os
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from llmkit import config, manifest
from llmkit.data.collect import Collect
from llmkit.data.collect import work as collect
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe
from llmkit.engine.start import Start
from llmkit.errors import ConfigError
from tests import ranks
from tests.checkpoint.small import lines

OBJECTIVES = {
    "dpo": ({"name": "dpo"}, "pairs"),
    "kto": ({"name": "kto", "beta": 1.0}, "unpaired"),
    "distill": ({"name": "distill", "teacher": "base", "top_k": 4}, "pairs"),
}
NARROW = {"name": "decoder", "width": 8, "layers": 1, "heads": 1, "context": 128}
"""The student, which starts from nothing."""


def recipe(folder: str, tokenizer: str, out: str, **changes) -> TrainRecipe:
    tree = {
        "run": {"out": f"{folder}/{out}", "steps": 3, "log_every": 1, "eval_rows": 6},
        "init": f"{folder}/base",
        "data": {"name": "pairs", "data": f"{folder}/pairs", "tokenizer": tokenizer, "seq_len": 96},
        "batch": {"rows": 4},
        "optim": {"lr": 1e-2, "eps": 1e-5},
        "parallel": {"backend": "ddp", "precision": "fp32", "compile": "off", "threads": 1, "timeout_s": 60},
    }
    return config.resolve(TrainRecipe, {**tree, **changes})


def prepared(folder: str, tokenizer: str) -> None:
    """Pairs of generated tasks, and a net of two layers that has seen four of them."""
    pairs = Path(folder) / "pairs"
    pairs.mkdir()
    tasks = {"name": "tasks", "kind": "pairs", "prompts": 4}
    result = collect(Collect(kind="pairs", source=[tasks], heldout_frac=0.3), pairs)
    lifted = {key: result.pop(key) for key in ("counts", "licences")}
    manifest.write(pairs, verb="data.collect", config={}, result=result, status="done", **lifted)
    model = {"name": "decoder", "width": 16, "layers": 2, "heads": 2, "context": 128}
    run.train(recipe(folder, tokenizer, "base", init=None, model=model, objective={"name": "orpo"}), "cpu")


def both(folder: str, tokenizer: str) -> None:
    """Each objective with a live reference, and with a cached one, on as many ranks as there are."""
    for name, (settings, dataset) in OBJECTIVES.items():
        data = {"name": dataset, "data": f"{folder}/pairs", "tokenizer": tokenizer, "seq_len": 96}
        for kind in ("live", "cached"):
            objective, changes = {**settings, "reference": kind}, {}
            if kind == "cached":
                objective["cache"] = f"{folder}/cache"
            if "teacher" in settings:
                objective["teacher"], changes = f"{folder}/base", {"init": None, "model": NARROW}
            changes |= {"objective": objective, "data": data}
            os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)  # each run meets elsewhere
            run.train(recipe(folder, tokenizer, f"{name}_{kind}", **changes), "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer_dir):
    folder = tmp_path_factory.mktemp("columns")
    prepared(str(folder), str(tokenizer_dir))
    ranks.run(both, 2, str(folder), str(tokenizer_dir))
    return folder


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_cached_reference_trains_like_a_live_one_on_two_ranks(made, name):
    live, cached = (lines(made / f"{name}_{kind}") for kind in ("live", "cached"))
    for a, b in zip(live, cached, strict=True):
        keys = [key for key in a if key.endswith(("loss", "margin", "kl"))]
        assert len(keys) >= 2
        assert [b[key] for key in keys] == pytest.approx([a[key] for key in keys], rel=1e-4, abs=1e-6)
    assert live[-1]["loss"] != live[0]["loss"]


def test_one_net_is_held_instead_of_two(made):
    from llmkit.objectives.tune.dpo import Dpo

    objective = Dpo(Dpo.Settings(reference="cached"))
    assert set(objective.build(lambda **changes: None)) == {"model"}


def folders(made) -> set[Path]:
    return set((made / "cache" / "reference_nll").iterdir())


def dpo(made, tokenizer_dir, out: str, **changes):
    objective = {"name": "dpo", "reference": "cached", "cache": str(made / "cache")}
    run.train(recipe(str(made), str(tokenizer_dir), out, objective=objective, **changes), "cpu")


def test_a_second_run_reads_what_the_first_has_written(made, tokenizer_dir, capsys):
    (folder,) = folders(made)
    before = (folder / "train.npy").stat().st_mtime_ns
    dpo(made, tokenizer_dir, "again")
    assert f"reference_nll: from {folder}" in capsys.readouterr().out
    assert (folder / "train.npy").stat().st_mtime_ns == before
    assert lines(made / "again")[-1]["loss"] == pytest.approx(lines(made / "dpo_live")[-1]["loss"], rel=1e-4)


def test_a_damaged_cache_is_made_again(made, tokenizer_dir):
    (folder,) = folders(made)
    whole = np.load(folder / "train.npy")
    cells = np.load(folder / "train.npy", mmap_mode="r+")
    cells[0, :] += 1
    cells.flush()
    dpo(made, tokenizer_dir, "damaged")
    assert (np.load(folder / "train.npy") == whole).all()


def other_template(tokenizer_dir, tmp_path) -> Path:
    folder = copytree(tokenizer_dir, tmp_path / "tokenizer")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    return folder


def test_weights_that_know_one_template_are_not_trained_on_another(made, tokenizer_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"data: has chat template .*, the weights of .* know"):
        dpo(made, other_template(tokenizer_dir, tmp_path), "other_template")


@pytest.mark.parametrize("change", ["weights", "rows", "template"])
def test_what_has_become_stale_is_not_read(made, tokenizer_dir, change, tmp_path, monkeypatch):
    known, changes, tokenizer = folders(made), {}, tokenizer_dir
    if change == "weights":
        changes["init"] = str(made / "dpo_live")
    elif change == "rows":
        data = {"name": "pairs", "data": f"{made}/pairs", "tokenizer": str(tokenizer_dir), "seq_len": 90}
        changes["data"] = data
    else:
        tokenizer = other_template(tokenizer_dir, tmp_path)
        monkeypatch.setattr(Start, "check", lambda *args: None)  # which would not even begin
    dpo(made, tokenizer, f"stale_{change}", **changes)
    (new,) = folders(made) - known
    facts = [json.loads((folder / "manifest.json").read_text())["facts"] for folder in (new, *known)]
    assert facts[0] not in facts[1:]


def test_a_cache_needs_weights_to_start_from(made, tokenizer_dir):
    model = {"name": "decoder", "width": 16, "layers": 2, "heads": 2, "context": 128}
    with pytest.raises(ConfigError, match=r"objective.reference: cached needs an init"):
        dpo(made, tokenizer_dir, "nothing", init=None, model=model)
