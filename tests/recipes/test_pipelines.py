"""The pipelines that ship, end to end in quick mode: what they leave behind, and that they continue."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmkit import config, verbs
from llmkit.engine.recipe import TrainRecipe
from llmkit.eval.compare import compare
from llmkit.pipeline import Pipeline

PIPELINES = Path(__file__).parents[2] / "recipes/pipeline"
REPORT = {
    "data": ["heldout"],
    "pretrain": ["bits_per_byte", "baseline", "tokens_per_second", "export"],
    "sft": ["loss_before", "loss_after", "exact_match"],
    "reward": ["accuracy", "ci95", "pairs", "longer_wins", "by_source"],
    "preference": ["accuracy_before", "accuracy_after", "ci95", "chosen_logprob_change", "kl"],
    "export": ["path", "max_abs_logit_diff", "tokenizer_mismatches"],
    "vision": ["vae", "dcgan", "recogniser"],
}


def llmkit(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "llmkit", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    killed = kill_when(folder, "runs/q/sft/metrics.jsonl", "run", "quickstart", "--quick", "out=runs/q")
    done = llmkit(folder, "run", "quickstart", "--quick", "out=runs/q")
    assert done.returncode == 0, done.stderr + done.stdout
    return folder, killed, done


def kill_when(folder: Path, appears: str, *words: str) -> int:
    """Start a command, kill its whole process group once a file appears -> how it ended."""
    command = [sys.executable, "-m", "llmkit", *words]
    child = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + 300
    while not (folder / appears).exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def test_the_quickstart_killed_in_the_middle_continues_to_a_complete_report(quickstart):
    folder, killed, done = quickstart
    assert killed == -signal.SIGKILL
    assert "pretrain is done already" in done.stdout
    report = json.loads((folder / "runs/q/report.json").read_text())
    assert all(stage["status"] == "done" and stage["seconds"] >= 0 for stage in report["stages"])
    missing = [f"{part}.{key}" for part, keys in REPORT.items() for key in keys if key not in report[part]]
    assert missing == []
    assert set(report["pretrain"]["baseline"]) == {"xz", "bz2", "unigram", "kn2", "kn3", "kn4"}
    assert report["export"]["max_abs_logit_diff"] <= 5e-5
    assert report["export"]["tokenizer_mismatches"] == 0
    for maker in ("vae", "dcgan"):
        assert report["vision"][maker]["evaluation"]["frechet"] >= 0
        assert report["vision"][maker]["samples"]
    page = (folder / "runs/q/report.html").read_text()
    assert "<html" in page[:200]
    assert 'alt="dcgan: samples"' in page


def test_a_finished_pipeline_does_nothing_again(quickstart):
    folder, _, _ = quickstart
    before = (folder / "runs/q/dpo/manifest.json").stat().st_mtime_ns
    again = llmkit(folder, "run", "quickstart", "--quick", "out=runs/q")
    assert again.returncode == 0
    assert again.stdout.count("is done already") == 20
    assert (folder / "runs/q/dpo/manifest.json").stat().st_mtime_ns == before


def test_the_export_carries_a_card_with_sources_and_licences(quickstart):
    folder, _, _ = quickstart
    card = (folder / "runs/q/export/README.md").read_text()
    assert "public domain" in card
    assert "chitchat" in card


def test_your_own_three_files_become_a_model(tmp_path):
    source = tmp_path / "texts"
    source.mkdir()
    words = ["the", "ship", "sailed", "over", "a", "calm", "grey", "sea", "and", "its", "crew", "sang"]
    for i in range(3):
        lines = [" ".join(words[(i * 7 + j * j + k) % len(words)] for k in range(9)) for j in range(200)]
        (source / f"{i}.txt").write_text(".\n\n".join(lines), encoding="utf-8")
    done = llmkit(tmp_path, "run", "pipeline/own_text", f"data.source={source}", "--quick", "out=runs/own")
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "runs/own/report.json").read_text())
    assert report["pretrain"]["bits_per_byte"] > 0
    assert (tmp_path / "runs/own/export/model.safetensors").exists()


@pytest.mark.parametrize("file", sorted(PIPELINES.glob("*.yaml")), ids=lambda file: file.stem)
def test_quick_makes_every_run_of_a_pipeline_small(file):
    """What a pipeline says of a stage is its recipe's; only what is asked for on the command line stays."""
    pipeline = config.load(Pipeline, str(file), folder="recipes/pipeline")
    for step in pipeline.stages:
        if step.verb == "train":
            tree = config.override(verbs.read("train", step.recipe), step.set)
            made = config.resolve(TrainRecipe, tree, {"run.log_every": 7}, quick=True)
            assert (made.run.steps, made.run.log_every) == (20, 7)


@pytest.mark.parametrize("name", ["spam", "instructgpt"])
def test_a_smoke_run_reaches_the_report(tmp_path, name):
    done = llmkit(tmp_path, "run", name, "--quick", "out=runs/p")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "20 steps of" in done.stdout
    assert (tmp_path / "runs/p/report.html").exists()


def test_a_tagger_and_its_twin_from_nothing_are_measured_on_the_same_sentences(tmp_path):
    done = llmkit(tmp_path, "run", "few_tags", "--quick", "out=runs/p")
    assert done.returncode == 0, done.stderr + done.stdout
    before = json.loads((tmp_path / "runs/p/eval_pretrain/report.json").read_text())["tasks"]["text"]
    assert before["pseudo_perplexity"] > 1
    found = compare(tmp_path / "runs/p/eval_twin", tmp_path / "runs/p/eval")["words"]
    assert found["samples"] == len((tmp_path / "runs/p/words/heldout.jsonl").read_text().splitlines())
    assert found["a"] != found["b"]


def test_tunes_are_written_and_their_bars_counted(tmp_path):
    done = llmkit(tmp_path, "run", "pipeline/music", "--quick", "out=runs/m")
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "runs/m/report.json").read_text())
    assert report["pretrain"]["baseline"]["hmm"] < report["pretrain"]["baseline"]["unigram"]
    assert report["tunes"]["real"]["bars_right"] > 0.95
    assert report["tunes"]["bars_right"] < report["tunes"]["real"]["bars_right"]
    assert "held-out tunes" in (tmp_path / "runs/m/report.html").read_text()


def test_a_plugin_objective_trains_from_python(tmp_path):
    root = Path(__file__).parents[2]
    code = f"""
import llmkit
text = {str(tmp_path)!r}
import pathlib; pathlib.Path(text, "a.txt").write_text("all work and no play makes a dull boy " * 3000)
llmkit.run("pipeline/own_text", {{"data.source": text + "/a.txt"}}, out=text + "/own", quick=True)
facts = llmkit.train({{"run": {{"steps": 5}}, "model": {{"name": "decoder"}},
    "objective": {{"name": "confident"}}, "data": {{"name": "tokens", "shards": text + "/own/shards"}}}},
    out=text + "/mine", quick=True,
    plugins=[{str(root / "docs/examples/confident.py")!r}])
print(facts["result"]["heldout/loss"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0
