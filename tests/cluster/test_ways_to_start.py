"""One recipe, started in every way there is: the same numbers."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmkit.cluster import render
from llmkit.verbs import Options

ROOT = Path(__file__).parents[2]
LLMKIT = [sys.executable, "-m", "llmkit"]


def train(command: list, *words: str) -> subprocess.CompletedProcess:
    line = [*command, "train", *map(str, words), "--device", "cpu"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-8000:]
    return done


@pytest.mark.slow
def test_supervised_ranks_and_a_bare_accelerate_launch_give_the_same_numbers(small_recipe, losses, tmp_path):
    config = ROOT / "recipes" / "accelerate" / "zero2.yaml"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "-m", "llmkit"]
    shown = train([*LLMKIT], small_recipe, f"out={tmp_path / 'supervised'}", "-n", "2").stdout
    assert "2 x cpu, zero2" in shown
    train(accelerate, small_recipe, f"out={tmp_path / 'bare'}", "parallel.backend=auto")
    train([*LLMKIT], small_recipe, f"out={tmp_path / 'alone'}", "parallel.backend=ddp", "-n", "1")
    supervised = losses(tmp_path / "supervised")
    assert supervised == losses(tmp_path / "bare")
    assert supervised == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)


@pytest.mark.slow
def test_a_recipe_and_a_launcher_that_name_different_stages_are_refused(small_recipe, tmp_path):
    config = ROOT / "recipes" / "accelerate" / "zero3.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "-m", "llmkit"]
    command += ["train", small_recipe, f"out={tmp_path / 'run'}", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert "the recipe says zero2, the launcher's config says zero3" in done.stderr


@pytest.mark.slow
def test_a_command_that_is_refused_on_the_ranks_leaves_nothing_behind(small_recipe, tmp_path):
    words = ["train", str(small_recipe), f"out={tmp_path / 'run'}", "data.shards=nowhere", "-n", "2"]
    done = subprocess.run(
        [*LLMKIT, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert not (tmp_path / "run").exists()


def slurm_nodes() -> int:
    """Idle nodes of a Slurm cluster that this machine can submit to."""
    if not shutil.which("sinfo"):
        return 0
    asked = subprocess.run(
        ["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"], capture_output=True, text=True, check=False
    )
    return len(set(asked.stdout.split()))


@pytest.mark.slow
@pytest.mark.skipif(
    "slurm_nodes() < 2", reason="needs a Slurm cluster with two idle nodes and this file system"
)
def test_two_slurm_nodes_give_the_same_numbers_as_two_ranks_here(
    small_recipe, losses, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    render.launch(str(small_recipe), ["out=slurm"], 2, "slurm", False, Options(ranks=1, device="cpu"))
    job = capsys.readouterr().out.split()[-1]
    deadline = time.monotonic() + 240
    while not (tmp_path / "slurm" / "manifest.json").exists() and time.monotonic() < deadline:
        if (
            "FAILED"
            in subprocess.run(
                ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
            ).stdout
        ):
            break
        time.sleep(0.5)
    assert (tmp_path / "slurm" / "manifest.json").exists(), (tmp_path / f"llmkit-tiny-{job}.out").read_text()
    train([*LLMKIT], small_recipe, f"out={tmp_path / 'here'}", "-n", "2")
    assert losses(tmp_path / "slurm") == losses(tmp_path / "here")
    assert json.loads((tmp_path / "slurm" / "manifest.json").read_text())["status"] == "done"
