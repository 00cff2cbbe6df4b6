"""Score heads."""

import torch

from llmkit.models.blocks import initialise
from tests.nets import random_net


def test_a_score_is_the_product_of_the_row_and_the_hidden_state():
    net, tokens = random_net("score"), torch.tensor([[1, 2, 3], [4, 5, 6]])
    scores = net.scores(tokens)
    assert scores.shape == (2, 3)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, (net.hidden(tokens) * net.score.weight[0]).sum(-1))


def test_scores_start_near_one_and_teach_the_trunk_from_the_first_step():
    net = initialise(random_net("value"), seed=1)
    scores = net.scores(torch.arange(12).view(4, 3))
    assert 0.3 < scores.std() < 3
    (scores[:, 2] - scores[:, 1]).sum().backward()
    assert net.trunk.embed_tokens.weight.grad.abs().max() > 1e-3


def test_the_trunk_keeps_its_names_and_loses_its_output_matrix():
    lm, score = (dict(random_net(head, tie=False).named_parameters()) for head in ("lm", "score"))
    trunk = {name.removeprefix("trunk.") for name in score if name.startswith("trunk.")}
    assert trunk == lm.keys() - {"lm_head.weight"}
    assert score.keys() - {f"trunk.{name}" for name in trunk} == {"score.weight"}
