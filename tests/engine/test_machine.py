"""What `auto` becomes, and that every step down is said in one line or refused."""

import pytest
import torch

from llmkit.engine import machine
from llmkit.engine.recipe import Parallel
from llmkit.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_auto_takes_the_launchers_stage_else_ddp(monkeypatch):
    assert machine.settle(Parallel(), CPU).backend == "ddp"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
    assert machine.settle(Parallel(), CPU).backend == "zero1"


def test_two_different_stages_are_refused_naming_both(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(ConfigError, match=r"zero2.*zero3"):
        machine.settle(Parallel(backend="zero2"), CPU)


def test_without_a_compiler_it_is_eager_and_ddp_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    settled = machine.settle(Parallel(backend="zero2"), CPU)
    assert (settled.backend, settled.compile) == ("ddp", "off")
    assert capsys.readouterr().out.count("no C++ compiler") == 2


def test_without_deepspeed_zero_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs deepspeed"):
        machine.settle(Parallel(backend="zero1"), CPU)


def test_compile_under_zero3_is_off_or_refused():
    assert machine.settle(Parallel(backend="zero3"), CPU).compile == "off"
    with pytest.raises(ConfigError, match="zero3"):
        machine.settle(Parallel(backend="zero3", compile="on"), CPU)


def test_threads_are_cores_over_ranks(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert machine.settle(Parallel(), CPU).threads == 1
    assert machine.settle(Parallel(threads=3), CPU).threads == 3
