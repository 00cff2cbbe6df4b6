"""Rendered jobs: the shell accepts them, the YAML parses, they start the right number of the right thing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llmkit.cluster import render
from llmkit.cluster.render import Job
from llmkit.errors import ConfigError
from llmkit.verbs import Options

JOB = Job(
    name="llmkit-it's $HOME",
    words=("train", "my recipe.yaml", "run.steps=5", "--device", "cpu"),
    nodes=2,
    ranks=4,
    folder=Path("/data/it's here"),
    python="/opt/my env/bin/python",
)


@pytest.mark.parametrize("dialect", [render.slurm, render.torchrun, render.accelerate])
@pytest.mark.parametrize("nodes", [1, 2])
def test_bash_reads_every_rendered_job(dialect, nodes, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(dialect(Job(**{**vars(JOB), "nodes": nodes})))
    subprocess.run(["bash", "-n", script], check=True)
    beside = Path(sys.executable).with_name("shellcheck")  # a wheel's; tests run without PATH set to it
    if checker := shutil.which("shellcheck") or (beside.is_file() and str(beside)):
        subprocess.run([checker, "--shell=bash", "--severity=warning", script], check=True)


@pytest.mark.parametrize("dialect", [render.torchrun, render.accelerate])
def test_a_rendered_line_hands_over_awkward_words_unchanged(dialect):
    show = 'python() { printf "%s\\n" "$@"; }; NODE_RANK=1 MASTER_ADDR=node-a;'
    line = dialect(Job(**{**vars(JOB), "python": "python"}))
    words = subprocess.run(
        ["bash", "-c", show + line], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[-7:] == ["-m", "llmkit", "train", "my recipe.yaml", "run.steps=5", "--device", "cpu"]
    assert {"1", "node-a"} < set(words)


def test_sbatch_asks_for_one_launcher_per_node_and_a_warning_before_the_limit():
    script = render.slurm(Job(**{**vars(JOB), "gpus": 4, "options": ("--time=02:00:00",)}))
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--time=02:00:00", "--requeue"} < set(
        asked
    )
    assert f"--signal=B:USR1@{render.LEAD_S}" in asked
    assert "-n 4 &" in script


def test_kubernetes_gets_a_pod_per_node_that_knows_its_number():
    service, job = yaml.safe_load_all(render.k8s(JOB))
    assert service["spec"]["clusterIP"] == "None"
    assert (job["spec"]["completions"], job["spec"]["completionMode"]) == (2, "Indexed")
    pod = job["spec"]["template"]["spec"]
    env = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    assert env["PET_MASTER_ADDR"] == f"{service['metadata']['name']}-0.{pod['subdomain']}"
    assert {"PET_NODE_RANK", "PET_MASTER_PORT", "PET_NNODES"} < set(env)
    assert job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2, 3, 4, 5, 7]


RECIPE = """
model: {name: decoder, vocab_size: 300}
objective: {name: causal}
data: {name: tokens, shards: shards}
run: {steps: 3}
"""


def test_launch_prints_the_job_of_a_valid_recipe(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(RECIPE)
    render.launch(str(tmp_path / "r.yaml"), ["run.steps=5"], 2, "slurm", True, Options(ranks=3, device="cpu"))
    assert f"llmkit train {tmp_path}/r.yaml run.steps=5 --device cpu -n 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "scheduler", "message"),
    [
        (["run.stepz=5"], "slurm", "did you mean run.steps"),
        ([], "pbs", "is one of slurm, torchrun, accelerate, k8s"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_queued(tmp_path, overrides, scheduler, message):
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(ConfigError, match=message):
        render.launch(str(tmp_path / "r.yaml"), overrides, 2, scheduler, True, Options())


def test_a_missing_scheduler_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch: is not installed here; use --print"):
        render.launch(str(tmp_path / "r.yaml"), [], 2, "slurm", False, Options())
