"""SFT, reward models and every preference loss: TRL 1.16's loss and gradient, on packed rows of ours."""

import json
from pathlib import Path

import pytest

from tests.objectives.rl.trl import away
from tests.parity import trl

STORED = json.loads(Path(__file__).with_name("trl.json").read_text())


def distance(case: dict, name: str) -> tuple[float, float]:
    return away(trl.ours(case), STORED[name])


@pytest.mark.parametrize("name", trl.CASES)
def test_loss_and_gradient_are_those_of_trl(name):
    loss, gradient = distance(trl.CASES[name], name)
    assert loss < 1e-5 * max(1, STORED[name]["loss"])
    assert gradient < 1e-4


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("reward_margin", {"centering": 0.0}),
        ("dpo", {"beta": 0.11}),
        ("dpo", {"label_smoothing": 0.1}),  # cDPO, which TRL ignores
        ("ipo", {"convention": "openrlhf"}),
        ("forward_kl", {"divergence": "reverse_kl"}),
        ("alpha", {"alpha": 0.31}),
        ("kto", {"loss": "apo_zero"}),
        ("kto", {"desirable_weight": 1.0}),
        ("orpo", {"convention": "llamafactory"}),
        ("simpo", {"convention": "open_instruct"}),
        ("cpo_ipo", {"sft_weight": 0.0}),
    ],
)
def test_another_convention_is_noticed(name, change):
    loss, gradient = distance({**trl.CASES[name], **change}, name)
    assert loss > 1e-5 or gradient > 1e-4
