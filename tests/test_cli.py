"""The command line: what it lists, how fast it answers, and that a mistake is one line and the right code."""

import resource
import subprocess
import sys

import pytest

from llmkit.cli import main


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "llmkit", *words], capture_output=True, text=True, timeout=60
    )


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_in_half_a_second():
    """Of processor time, which other work on the machine moves little."""
    times = []
    for _ in range(3):
        start = cpu_seconds()
        done = run("--help")
        times.append(cpu_seconds() - start)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in ("train", "run", "eval", "export", "chat", "launch", "report"))
    assert min(times) < 0.5


def test_help_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'transformers', 'pydantic', 'yaml'} & set(sys.modules)"
    code = f"import sys; from llmkit.cli import main; main(['--help']); print({heavy} or 'light')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("light")


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["trian"], 2, "No such command"),
        (["train"], 2, "Missing argument"),
        (["train", "no_such_recipe"], 2, "there is no such file"),
        (["run", "no_such_pipeline"], 2, "there is no such file"),
        (["train", "x.yaml", "--device", "tpu"], 2, "one of cpu, gpu, auto"),
        (["plan", "x.yaml"], 2, "there is no such file"),
        (["verify", "resume", "x.yaml"], 2, "there is no such file"),
        (["report", "/no/such/run"], 3, "/no/such/run"),
        (["generate", "/no/such/run", "--prompt", "a"], 4, "/no/such/run"),
    ],
)
def test_a_mistake_is_one_line_and_the_right_code(words, code, part, capsys):
    assert main(words) == code
    stderr = capsys.readouterr().err
    assert part in stderr
    assert stderr.count("\n") == 1
