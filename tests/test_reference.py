"""The reference in docs/ is what the settings classes say, and every recipe that ships is valid."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmkit import config, reference
from llmkit.pipeline import Pipeline

ROOT = Path(__file__).parents[1]
TRAINED = [
    p
    for kind in ("pretrain", "tune", "rlhf", "vision")
    for p in sorted((ROOT / "recipes" / kind).glob("*.yaml"))
]


def test_docs_reference_is_up_to_date():
    # in a process of its own, where no other test has registered components
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "llmkit.reference",
    ]
    now = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert written == now, "renew it: python -m llmkit.reference > docs/reference.md"


@pytest.mark.parametrize("kind", reference.RECIPES)
def test_every_kind_of_recipe_has_a_json_schema(kind):
    assert json.loads(reference.schema(kind))["properties"]


@pytest.mark.parametrize("path", TRAINED, ids=lambda p: f"{p.parent.name}/{p.stem}")
@pytest.mark.parametrize("quick", [False, True])
def test_every_training_recipe_is_valid_and_says_how_to_run_it(path, quick):
    tree = config.read(str(path))
    tree.setdefault("init", "runs/base")
    config.resolve(reference.settings("train"), tree, quick=quick)
    header = path.read_text(encoding="utf-8").partition("\nrun:")[0]
    assert header.startswith("#")
    assert "llmkit" in header or "launch.sh" in header


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/pipeline").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_stage_of_a_pipeline_names_a_recipe_that_exists(path):
    folders = {"tokenizer.train": "tokenizer", "eval": "eval"}
    for stage in config.load(Pipeline, str(path)).stages:
        for recipe in (stage.recipe, stage.gpu.get("recipe")):
            assert recipe is None or config.read(recipe, folders.get(stage.verb, "recipes"))
