"""A command inside a Slurm allocation goes to every node once; srun and scancel are stand-ins on the PATH."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmkit.checkpoint.runstate import write_exit
from llmkit.cluster import allocation, supervise
from llmkit.errors import LlmkitError, Stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """An allocation of two nodes; `slurm(script)` says what srun does."""
    monkeypatch.setenv("SLURM_NNODES", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)

    write("scancel", f'echo "$*" > {tmp_path}/asked')
    return lambda script: write("srun", script)


def test_an_allocation_calls_for_a_launcher_until_one_is_inside_a_step(slurm, monkeypatch):
    assert supervise.needed(1)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert not allocation.here()


def test_every_node_gets_the_command_once(slurm, tmp_path):
    slurm(f'printf "%s\\n" "$@" > {tmp_path}/words')
    supervise.train("recipe", ["--device", "cpu"], 4, tmp_path / "my run")
    words = (tmp_path / "words").read_text().splitlines()
    assert words[0] == "--ntasks-per-node=1"
    assert words[words.index("-m") :] == [
        "-m", "llmkit", "train", f"{tmp_path}/my run/logs/asked.yaml", f"out={tmp_path}/my run",
        "--device", "cpu", "-n", "4",
    ]  # fmt: skip
    assert (tmp_path / "my run" / "logs" / "asked.yaml").read_text() == "recipe"


def test_what_the_ranks_said_comes_back(slurm, tmp_path):
    slurm("exit 75")
    write_exit(tmp_path, 75, "stopped at step 7")
    with pytest.raises(Stopped, match="stopped at step 7"):
        allocation.run(["train"], tmp_path)


def test_an_old_word_is_not_taken_for_the_new_end(slurm, tmp_path):
    slurm("exit 6")
    write_exit(tmp_path, 75, "stopped at step 7")
    with pytest.raises(LlmkitError, match="ended with exit code 6") as caught:
        allocation.run(["train"], tmp_path)
    assert caught.value.code == 6


def test_a_request_to_stop_goes_to_the_steps_through_scancel(slurm, tmp_path):
    slurm(f"for _ in $(seq 200); do [ -e {tmp_path}/asked ] && exit 75; sleep 0.05; done")
    code = "from pathlib import Path; from llmkit.cluster import allocation; print('up', flush=True)\n"
    code += f"allocation.run(['train'], Path({str(tmp_path)!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert b"75" in process.communicate(timeout=60)[1]
    assert (tmp_path / "asked").read_text() == "--signal=TERM 17\n"
