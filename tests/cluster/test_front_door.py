"""launch.sh with a stand-in for Python: what it sets up, when, what it says, and what it starts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PYTHON = """#!/usr/bin/env bash
# Stands in for Python: makes an environment that holds itself, notes what pip is asked, echoes all else.
case "$*" in
  "-c import sys"*) exit 0 ;;
  "-V") echo "Python 3.11.9" ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo home=x > "$3/pyvenv.cfg" ;;
  "-m pip --version") exit 0 ;;
  "-m pip list"*) [ ! -e "$PIP_LOG" ] || echo "torch==2.13.0+cpu" ;;
  "-m pip install --dry-run"*) echo '{"version": "2.13.0+cpu"}' ;;
  "-m pip install"*) echo "$*" >> "$PIP_LOG"; echo "no such package" >&2; exit "${PIP_CODE:-0}" ;;
  *) echo "ran $*" ;;
esac
"""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """`clone("train", ...)` runs launch.sh in a folder that looks like a fresh clone."""
    folder = tmp_path / "my clone"
    folder.mkdir()
    for name in ("launch.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3.11"
    python.write_text(PYTHON)
    python.chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "LLMKIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    monkeypatch.setenv("LLMKIT_TORCH_INDEX", "")

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([folder / "launch.sh", *words], capture_output=True, text=True, check=False)

    run.folder, run.pip_log, run.bin = folder, tmp_path / "pip.log", tmp_path / "bin"
    return run


def test_bash_and_shellcheck_accept_it():
    subprocess.run(["bash", "-n", ROOT / "launch.sh"], check=True)
    beside = Path(sys.executable).with_name("shellcheck")
    if checker := shutil.which("shellcheck") or (beside.is_file() and str(beside)):
        subprocess.run([checker, ROOT / "launch.sh", ROOT / ".ci" / "run"], check=True)


def test_the_first_use_sets_up_and_the_second_does_not(clone):
    first = clone("train", "my recipe.yaml")
    assert first.stdout == "ran -m llmkit train my recipe.yaml\n"
    assert [line[:12] for line in first.stderr.splitlines()[1:4]] == [f"[llmkit] {n}/3" for n in (1, 2, 3)]
    torch, rest = clone.pip_log.read_text().splitlines()
    assert torch.endswith("torch==2.13.0")
    assert rest.endswith(f"-e {clone.folder}")
    second = clone("doctor")
    assert (second.stdout, second.stderr) == ("ran -m llmkit doctor\n", "")
    assert len(clone.pip_log.read_text().splitlines()) == 2


def test_a_changed_lock_sets_up_again(clone):
    clone("doctor")
    with open(clone.folder / "requirements.lock", "a") as lock:
        lock.write("six==1.17.0\n")
    said = clone("doctor").stderr
    assert "setting up" in said
    assert "torch==2.13.0+cpu is there" in said
    assert sum("torch==" in line for line in clone.pip_log.read_text().splitlines()) == 1


def test_tests_need_the_dev_extra_and_quickstart_is_a_pipeline(clone):
    assert clone("quickstart", "--quick").stdout == "ran -m llmkit run quickstart --quick\n"
    parallel = "--numprocesses logical --maxprocesses 8 --dist loadfile"
    assert clone("test", "-k", "word").stdout == f"ran -m pytest {parallel} -k word\n"
    assert clone.pip_log.read_text().splitlines()[-1].endswith(f"-e {clone.folder}[dev]")
    assert "setting up" not in clone("quickstart").stderr


def test_help_names_the_two_commands_that_are_no_verbs(clone):
    asked = clone("--help")
    assert asked.stdout == "ran -m llmkit --help\n"
    assert "quickstart:" in asked.stderr
    assert "test:" in asked.stderr


def test_a_setup_that_fails_says_where_and_is_taken_up_again(clone, monkeypatch):
    monkeypatch.setenv("PIP_CODE", "1")
    failed = clone("doctor")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert "no such package" in failed.stderr
    assert "setup failed" in failed.stderr.splitlines()[-1]
    monkeypatch.setenv("PIP_CODE", "0")
    assert clone("doctor").stdout == "ran -m llmkit doctor\n"


def test_without_a_new_enough_python_it_says_what_to_install(clone, monkeypatch):
    monkeypatch.setenv("LLMKIT_PYTHON", "/bin/false")
    refused = clone("doctor")
    assert refused.returncode == 2
    assert "/bin/false: is not a Python of 3.11 or newer" in refused.stderr.splitlines()[-1]
