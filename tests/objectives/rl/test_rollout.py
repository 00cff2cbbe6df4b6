"""Replies that share a prompt are computed behind one copy of it: nothing else changes."""

import pytest
import torch

from llmkit.data.sets.prompts import Prompt
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.rl import rollout
from tests.nets import random_net
from tests.parity.problems import Letters

SAMPLES = 3


def drawn(net, longest: int = 6):
    """Rows of three replies to each of three prompts, one of them a single token."""
    asked = [[5, 6, 7, 8, 9], [4], [11, 12]]
    prompts = [Prompt(ids, {"messages": []}, str(i)) for i, ids in enumerate(asked)]
    batch = {"prompts": prompts, "tokenizer": Letters, "stop": [2, 3, 17], "pad": 0, "prompt_len": 5}
    return rollout.draw(net, batch, SAMPLES, longest)[1]


def nll_and_gradient(net, rows):
    net.zero_grad()
    nll = rollout.token_nll(net, rows)
    (nll * torch.linspace(-1, 2, nll.numel()).view_as(nll)).sum().backward()
    return nll.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("changes", [{}, {"positions": "learned"}, {"kv_heads": 1}])
@pytest.mark.parametrize("masked", [False, True])
def test_branches_of_one_prompt_have_the_loss_and_gradient_of_rows_of_their_own(changes, masked):
    net = random_net(**changes)
    rows = drawn(net)
    if masked:  # as mask_truncated does to some replies, after the rows were laid
        rows["labels"][::2] = IGNORED
    alone = {key: value for key, value in rows.items() if not key.startswith("branched_")}
    assert rows["branched_tokens"].shape[0] == 3
    assert (rows["branched_segments"] > 0).sum() < (rows["segments"] > 0).sum()
    found, expected = nll_and_gradient(net, rows), nll_and_gradient(net, alone)
    for mine, plain in zip(found, expected, strict=True):
        assert (mine - plain).norm() < 1e-5 * plain.norm()


@pytest.mark.parametrize("key", ["branched_stems", "branched_segments"])
def test_a_branch_that_sees_less_or_more_is_noticed(key):
    net = random_net()
    rows = drawn(net)
    right = rollout.token_nll(net, rows)
    wrong = {**rows, key: rows[key].clamp(max=0 if key == "branched_stems" else 2)}
    assert not torch.allclose(rollout.token_nll(net, wrong), right, atol=1e-3)


def test_long_replies_and_nets_with_a_window_keep_rows_of_their_own():
    assert "branched_tokens" not in drawn(random_net(window=4))
    many = [([5] * 60, [6] * 120)] * SAMPLES
    assert rollout.branched(many, SAMPLES, (SAMPLES, 180), 0)
    assert not rollout.branched([([5] * 60, [6] * 160)] * SAMPLES, SAMPLES, (SAMPLES, 220), 0)
