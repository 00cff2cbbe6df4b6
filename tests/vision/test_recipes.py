"""Every vision recipe runs in quick form, and what it made can be sampled from and measured."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llmkit import config, verbs
from llmkit.cli import main
from llmkit.errors import CheckpointError
from tests import ranks
from tests.vision import small

pytestmark = pytest.mark.slow

BEGIN = {"runs/vq_average": "vq_average_tiny", "runs/emoji_vq": "emoji_vq"}
RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "recipes" / "vision").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(small.archive(tmp_path_factory.mktemp("data")))


def quick(recipes: list[str], data: str, out: str) -> None:
    """Train each in quick form, on small images; those that begin with another come behind it."""
    for recipe in sorted(recipes, key=lambda name: "init" in config.read(f"vision/{name}")):
        options = verbs.Options(ranks=1, device="cpu", quick=True)
        asked = {"out": f"{out}/{recipe}", "run.steps": 2, "parallel.threads": 1}
        if config.read(f"vision/{recipe}")["data"]["name"] in ("images", "captioned"):
            asked["data.source"] = data
        if begins := config.read(f"vision/{recipe}").get("init"):
            asked["init"] = f"{out}/{BEGIN[begins]}"
        verbs.perform("train", f"vision/{recipe}", asked, options)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    ranks.run(quick, 1, RECIPES, data, str(out), timeout_s=400)
    return out


def test_every_recipe_runs(runs):
    for recipe in RECIPES:
        facts = json.loads((runs / recipe / "manifest.json").read_text())
        assert facts["status"] == "done"


def makers() -> list[str]:
    silent = ("vq", "vq2", "recogniser", "captioner")
    return [r for r in RECIPES if config.read(f"vision/{r}")["model"]["name"] not in silent]


@pytest.mark.parametrize("recipe", makers())
def test_samples_are_a_function_of_the_seed(recipe, runs, tmp_path):
    grids = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        out = tmp_path / f"{name}.png"
        words = [
            "sample",
            str(runs / recipe),
            "--out",
            str(out),
            "--count",
            "3",
            "--seed",
            seed,
            "--device",
            "cpu",
        ]
        assert main(words) == 0
        grids.append(np.asarray(Image.open(out)))
    assert np.array_equal(grids[0], grids[1])
    assert not np.array_equal(grids[0], grids[2])


WALKS = [("--interpolate", "png"), ("--interpolate", "gif"), ("--traverse", "png"), ("--traverse", "gif")]


@pytest.mark.parametrize(("way", "kind"), [*WALKS, ("--classes", "png")])
def test_walks_and_class_grids_are_pictures_or_films(way, kind, runs, tmp_path):
    out = tmp_path / f"x.{kind}"
    words = ["sample", str(runs / "wgan_gp_tiny"), "--out", str(out), way, "--count", "3", "--steps", "5"]
    assert main([*words, "--device", "cpu"]) == 0
    with Image.open(out) as content:
        frames = getattr(content, "n_frames", 1)
        assert frames == {"png": 1, "gif": 8 if way == "--traverse" else 5}[kind]
        assert content.width > 64


def test_the_grid_that_the_manual_asks_for(runs, tmp_path):
    """Of class 3 with less noise; and walks that a model has not are refused in a line."""
    words = ["--out", str(tmp_path / "grid.png"), "--class", "3", "--truncation", "0.7", "--seed", "0"]
    assert main(["sample", str(runs / "wgan_gp_tiny"), *words]) == 0
    assert Image.open(tmp_path / "grid.png").width > 100


@pytest.mark.parametrize(
    ("recipe", "words", "line"),
    [
        ("pixelcnn_tiny", ["--traverse"], "--traverse: a pixel has no latent space to walk through"),
        ("dcgan_tiny", ["--classes"], "--classes: the model knows none"),
        ("dcgan_tiny", ["--classes", "--traverse"], "--classes, --traverse: one at a time"),
    ],
)
def test_walks_that_a_model_has_not_are_refused(recipe, words, line, runs, tmp_path, capsys):
    assert main(["sample", str(runs / recipe), "--out", str(tmp_path / "x.png"), *words]) == 2
    assert line in capsys.readouterr().err


def test_a_class_that_the_model_does_not_know_is_refused(runs, tmp_path, capsys):
    words = ["sample", str(runs / "wgan_gp_tiny"), "--out", str(tmp_path / "x.png"), "--class", "4"]
    assert main(words) == 2
    assert "--class: 4 is not a class of the model, which knows 0 to 3" in capsys.readouterr().err
    words = ["sample", str(runs / "recogniser_tiny"), "--out", str(tmp_path / "x.png")]
    assert main(words) == 4
    assert "is a recogniser, a model of images is needed" in capsys.readouterr().err


def test_an_evaluation_names_its_extractor(runs, data, tmp_path):
    asked = {
        "ckpt": str(runs / "wgan_gp_tiny"),
        "tasks.digits.images.source": data,
        "tasks.digits.extractor": str(runs / "recogniser_tiny"),
        "out": str(tmp_path / "eval"),
    }
    verbs.perform("eval", "vision_tiny", asked, verbs.Options(device="cpu", quick=True))
    figures = json.loads((tmp_path / "eval" / "report.json").read_text())["tasks"]["digits"]
    assert figures["frechet"] >= 0
    assert figures["extractor"].startswith("recogniser ")
    assert 0 <= figures["class_hits"] <= 1


def test_codes_of_dsprites_are_scored(runs, tmp_path):
    asked = {"ckpt": str(runs / "beta_vae_dsprites"), "out": str(tmp_path / "eval")}
    verbs.perform("eval", "disentanglement", asked, verbs.Options(device="cpu", quick=True))
    figures = json.loads((tmp_path / "eval" / "report.json").read_text())["tasks"]["factors"]
    names = ("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness")
    assert all(0 <= figures[name] <= 1 for name in names)
    asked = {"ckpt": str(runs / "pixelcnn_tiny"), "out": str(tmp_path / "other")}
    with pytest.raises(CheckpointError, match="has no encoder"):
        verbs.perform("eval", "disentanglement", asked, verbs.Options(device="cpu", quick=True))
