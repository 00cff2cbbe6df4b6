"""recipes/accelerate: each config starts two ranks, without GPUs too, and tells them its ZeRO stage."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "accelerate").glob("*.yaml"))
RANK = """
import os
from llmkit.engine.machine import launcher_stage
open(os.environ["RANK"], "w").write(os.environ["WORLD_SIZE"] + " " + launcher_stage())
"""


def test_the_configs_differ_in_the_stage_only():
    settings = [yaml.safe_load(config.read_text()) for config in CONFIGS]
    plain = [
        {k: v for k, v in s.items() if k not in ("distributed_type", "deepspeed_config")} for s in settings
    ]
    assert all(one == plain[0] for one in plain)
    assert [config.stem for config in CONFIGS] == ["ddp", "zero1", "zero2", "zero3"]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS[::2], ids=lambda config: config.stem)
def test_accelerate_starts_two_ranks_that_know_the_stage(config, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "rank.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    assert {(tmp_path / rank).read_text() for rank in "01"} == {f"2 {config.stem}"}
