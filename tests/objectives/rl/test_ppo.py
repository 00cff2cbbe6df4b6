"""A trunk with two heads says of its replies what the same net says that has one."""

import pytest
import torch

from llmkit import registry
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Settings
from llmkit.models.heads import build
from llmkit.objectives.rl.ppo import _both
from llmkit.objectives.rl.rollout import lay, token_nll


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_bounds_of_updates_are_said_to_be_idle_where_there_is_one_a_step(name, capsys):
    """With one update the ratio is 1 and a value is the old one: nothing comes near a bound."""
    cls = registry.find("objective", name)
    for epochs in (1, 2):
        settings = {"rewards": [{"name": "exact"}], "samples": 2, "clip_high": 0.28, "epochs": epochs}
        cls(cls.Settings.model_validate(settings)).build(lambda *args, **changes: None)
        said = capsys.readouterr().err
        assert ("objective.clip_high: acts from a step's second update on" in said) == (epochs == 1)
        assert "objective.clip:" not in said


@pytest.mark.parametrize("output", [{"logit_cap": 1.0}, {"mup_width": 4}, {}], ids=["cap", "mup", "plain"])
def test_a_shared_trunk_computes_the_log_probabilities_that_replies_are_drawn_with(output):
    settings = Settings(width=16, layers=1, heads=2, vocab_size=20, init_std=0.5, **output)
    net = initialise(build(settings, "lm_value"), seed=1)
    rows = lay([([1, 2, 3], [4, 5]), ([6], [7, 8, 9])], pad=0)
    nll, values = _both(net, rows)
    torch.testing.assert_close(nll, token_nll(net, rows), atol=1e-6, rtol=0)
    assert values.shape == nll.shape
