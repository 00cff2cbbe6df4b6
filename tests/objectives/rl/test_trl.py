"""The same policy, replies and rewards as in TRL 1.16: the same loss and gradient."""

import json
from pathlib import Path

import pytest

from tests.objectives.rl import trl

STORED = json.loads(Path(__file__).with_name("trl.json").read_text())


def distance(case: dict, name: str) -> tuple[float, float]:
    return trl.away(trl.ours(case), STORED[name])


@pytest.mark.parametrize("name", trl.CASES)
def test_loss_and_gradient_are_those_of_trl(name):
    loss, gradient = distance(trl.CASES[name], name)
    assert loss < 1e-5
    assert gradient < 1e-4


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("grpo", {"loss": "dapo"}),
        ("bnpo", {"kl_corrected": True}),
        ("dr_grpo", {"loss": "luspo"}),
        ("dapo", {"clip_high": 0.2}),
        ("gspo", {"ratio": "token"}),
        ("rloo", {"advantage": "grpo"}),
    ],
)
def test_another_convention_is_noticed(name, change):
    loss, gradient = distance({**trl.CASES[name], **change}, name)
    assert loss > 1e-5 or gradient > 1e-4
