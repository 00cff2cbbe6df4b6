"""A CKPT is a run, a checkpoint or a Hugging Face directory; anything else is one line."""

import json
import shutil

import pytest
import torch
import yaml

from llmkit.engine.start import Start
from llmkit.errors import CheckpointError
from llmkit.models.hf import importing
from llmkit.opened import open_model, resolve
from tests.nets import random_net

TOKENS = torch.arange(40)[None] % 400


@pytest.fixture
def run(tmp_path, tokenizer_dir):
    """A run directory with the checkpoint of step 0."""
    importing.save(random_net(), tmp_path / "run", tokenizer_dir, {"sources": {}})
    return tmp_path / "run"


def add_step(run, step: int) -> None:
    """A copy of the checkpoint of step 0 under another step."""
    path = run / "checkpoints" / f"step_{step:08d}"
    shutil.copytree(run / "checkpoints/step_00000000", path)
    facts = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(facts | {"step": step}))


@torch.no_grad()
def test_a_run_opens_as_the_net_that_was_saved_with_its_tokenizer_and_recipe(run, tokenizer_dir):
    opened, net = open_model(run, head="lm"), random_net()
    assert opened.net.logits(opened.net.hidden(TOKENS)).equal(net.logits(net.hidden(TOKENS)))
    assert not opened.net.training
    assert opened.recipe["model"]["width"] == 48
    assert opened.tokenizer.decode(opened.tokenizer.encode("a  licence\n")) == "a  licence\n"


def test_a_run_means_its_newest_checkpoint_and_says_so(run, capsys):
    add_step(run, 10)
    assert resolve(run).name == "step_00000010"
    assert "newest checkpoint, of step 10" in capsys.readouterr().out


def test_a_run_that_remembers_its_best_means_that_one(run, capsys):
    add_step(run, 10)
    (run / "best.json").write_text(json.dumps({"step": 0, "metric": "heldout/loss", "value": 1.0}))
    assert resolve(run).name == "step_00000000"
    assert "best checkpoint, of step 0" in capsys.readouterr().out


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(run, capsys):
    add_step(run, 10)
    file = run / "checkpoints/step_00000010/rank_00000.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-5] ^= 1
    file.write_bytes(damaged)
    assert resolve(run).name == "step_00000000"
    assert "sha256" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="sha256"):
        open_model(run / "checkpoints/step_00000010")


@pytest.mark.parametrize("named", ["checkpoint", "run that remembers its best"])
def test_a_flipped_bit_is_refused_when_nothing_else_is_meant(run, named):
    checkpoint = run / "checkpoints/step_00000000"
    (run / "best.json").write_text(json.dumps({"step": 0, "value": 1.0}))
    damaged = bytearray((checkpoint / "rank_00000.safetensors").read_bytes())
    damaged[len(damaged) // 2] ^= 4
    (checkpoint / "rank_00000.safetensors").write_bytes(damaged)
    for starts in (open_model, Start):
        with pytest.raises(CheckpointError, match="step_0+: damaged: rank_00000.safetensors has sha256"):
            starts(str(checkpoint if named == "checkpoint" else run))


def test_the_head_that_is_needed_is_checked(tmp_path, tokenizer_dir):
    importing.save(random_net("score"), tmp_path, tokenizer_dir, {"sources": {}})
    assert open_model(tmp_path, head="score").head == "score"
    with pytest.raises(CheckpointError, match="is a reward model, a language model is needed"):
        open_model(tmp_path, head="lm")


@pytest.mark.parametrize("name", ["nowhere", "empty", "file.txt", "run"])
def test_what_is_no_checkpoint_is_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        open_model(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_recipe_that_does_not_fit_its_tensors_lists_every_misfit(run):
    path = run / "checkpoints/step_00000000"
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    recipe["model"] |= {"layers": 4, "vocab_size": 500}
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    facts = json.loads((path / "manifest.json").read_text())
    facts["files"] = [file for file in facts["files"] if file["name"] != "recipe.yaml"]
    (path / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="10 tensors do not fit") as caught:
        open_model(path)
    assert "embed_tokens.weight: expected [500, 48], found [400, 48]" in str(caught.value)
    assert "layers.3.mlp.up_proj.weight: expected [128, 48], found none" in str(caught.value)
