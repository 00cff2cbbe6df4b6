"""A trunk with two heads says of its replies what the same net says that has one."""

import pytest
import torch

from llmkit.models.blocks import initialise
from llmkit.models.decoder import Settings
from llmkit.models.heads import build
from llmkit.objectives.rl.ppo import _both
from llmkit.objectives.rl.rollout import lay, token_nll


@pytest.mark.parametrize("output", [{"logit_cap": 1.0}, {"mup_width": 4}, {}], ids=["cap", "mup", "plain"])
def test_a_shared_trunk_computes_the_log_probabilities_that_replies_are_drawn_with(output):
    settings = Settings(width=16, layers=1, heads=2, vocab_size=20, init_std=0.5, **output)
    net = initialise(build(settings, "lm_value"), seed=1)
    rows = lay([([1, 2, 3], [4, 5]), ([6], [7, 8, 9])], pad=0)
    nll, values = _both(net, rows)
    torch.testing.assert_close(nll, token_nll(net, rows), atol=1e-6, rtol=0)
    assert values.shape == nll.shape
