"""A run directory has one writer and one recipe."""

import os
import signal
import subprocess
import sys

import pytest

from llmkit.checkpoint.runstate import RunDir, read_exit, write_exit
from llmkit.errors import CheckpointError, ConfigError

RECIPE = {
    "run": {"steps": 10, "save_every": 2, "seed": 1},
    "optim": {"lr": 1e-3, "betas": (0.9, 0.95)},
    "parallel": {"backend": "ddp"},
    "init": None,
}


def changed(**keys):
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in RECIPE.items()}
    for key, value in keys.items():
        section, _, name = key.partition("__")
        tree[section][name] = value
    return tree


def opened(out, recipe=RECIPE, **settings):
    directory = RunDir.open(out, recipe, **settings)
    directory.close()
    return directory


def test_the_same_recipe_continues(tmp_path):
    opened(tmp_path / "run")
    assert not opened(tmp_path / "run").changed


@pytest.mark.parametrize(
    "change", [{"run__steps": 20}, {"run__save_every": 5}, {"parallel__backend": "zero3"}], ids=str
)
def test_what_does_not_change_the_numbers_may_change(tmp_path, change):
    opened(tmp_path / "run")
    assert opened(tmp_path / "run", changed(**change)).changed


def test_another_recipe_is_refused_with_both_values(tmp_path):
    opened(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path / "run", changed(optim__lr=2e-3, run__seed=2))
    assert "holds a run of another recipe" in str(caught.value)
    assert "optim.lr  0.001 -> 0.002" in str(caught.value)
    assert "run.seed  1 -> 2" in str(caught.value)
    assert caught.value.code == 2


def test_fresh_moves_the_old_run_aside(tmp_path):
    opened(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("{}")
    assert not opened(tmp_path / "run", changed(optim__lr=2e-3), fresh=True).changed
    assert (tmp_path / "run.old-1" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


HOLD = """
import sys, time
from llmkit.checkpoint.runstate import RunDir
RunDir.open(sys.argv[1], {"run": {}})
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the run directory open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_directory_in_use_is_refused_and_names_its_holder(tmp_path, holder):
    with pytest.raises(ConfigError, match=rf"in use by another run \(pid {holder.pid} on "):
        opened(tmp_path / "run", {"run": {}})


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert opened(tmp_path / "run", {"run": {}})


def test_without_the_lock_two_runs_would_write_into_one_directory(tmp_path, holder, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *args: None)
    assert opened(tmp_path / "run", {"run": {}})


def test_a_place_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="run.out: cannot write to"):
        RunDir.open(tmp_path / "file" / "run", RECIPE)
    with pytest.raises(ConfigError, match="run.out: cannot write to"):
        RunDir.open("/proc/run", RECIPE)


def test_the_first_exit_line_stands(tmp_path):
    assert read_exit(tmp_path) is None
    write_exit(tmp_path, 5, "step 3: diverged")
    write_exit(tmp_path, 6, "rank 1: lost another rank")
    assert read_exit(tmp_path) == (5, "step 3: diverged")
    assert os.listdir(tmp_path) == ["exit.json"]


def test_a_new_start_forgets_how_the_last_one_ended(tmp_path):
    opened(tmp_path / "run")
    write_exit(tmp_path / "run", 75, "stopped")
    opened(tmp_path / "run")
    assert read_exit(tmp_path / "run") is None


def test_an_exit_file_that_is_none_is_an_error(tmp_path):
    (tmp_path / "exit.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not how a run ends"):
        read_exit(tmp_path)


def test_opening_a_run_imports_no_torch():
    code = "import sys, llmkit.checkpoint.runstate; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
