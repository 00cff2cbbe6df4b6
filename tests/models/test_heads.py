"""Score heads, and heads of labels."""

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.models.encdec import EncDec
from llmkit.models.heads import with_head
from tests.nets import random_encoder, random_net


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


# ---- labels ------------------------------------------------------------------------------------------------

NETS = {
    "decoder": random_net,
    "bert": lambda *head: random_encoder(*head, style="bert"),
    "modernbert": lambda *head: random_encoder(*head, style="modernbert", window=4),
}


@pytest.mark.parametrize("kind", NETS)
def test_texts_that_share_a_row_are_classified_as_if_they_were_alone(kind):
    net = NETS[kind]("classify", 3)
    a, b = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])
    row = torch.cat([a, b, torch.zeros(1, 2, dtype=torch.int64)], 1)
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0, 0]])
    both = net.label_logits(row, segments, torch.tensor([[0, 4]]), torch.tensor([[3, 6]]))
    assert both.dtype == torch.float32
    torch.testing.assert_close(both[:, :1], net.label_logits(a), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:, 1:], net.label_logits(b), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", NETS)
def test_a_text_is_read_where_its_kind_of_net_has_seen_all_of_it(kind):
    net, tokens = NETS[kind]("classify", 3), torch.tensor([[5, 6, 7, 8]])
    for at in range(4):
        changed = tokens.clone()
        changed[0, at] = 20
        assert not torch.allclose(net.label_logits(tokens), net.label_logits(changed), atol=1e-4)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("head", "outputs"), [("classify", 3), ("tag", 5)])
def test_a_new_head_teaches_every_parameter_from_the_first_step(kind, head, outputs):
    net, tokens = initialise(NETS[kind](head, outputs), seed=1), torch.arange(3, 11).view(2, 4)
    logits = net.label_logits(tokens)
    assert logits.shape == (2, 1 if head == "classify" else 4, outputs)
    assert 0.01 < logits.std() < 5
    (logits * torch.arange(outputs)).square().sum().backward()
    unused = {name for name, p in net.named_parameters() if p.grad is None}
    assert not unused, f"never taught: {sorted(unused)}"


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_an_encoder_scores_a_text_at_its_first_token_wherever_it_is_asked(kind):
    net = NETS[kind]("score")
    a, b = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])
    scores = net.scores(torch.cat([a, b], 1), torch.tensor([[1, 1, 1, 1, 2, 2, 2]]))
    alone = torch.cat([net.scores(a), net.scores(b)], 1)
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-5)
    assert (scores[0, :4] == scores[0, 0]).all()
    assert scores[0, 4] != scores[0, 0]


def test_what_cannot_end_in_labels_is_refused_in_one_line():
    t5 = EncDec(EncDec.Settings(style="t5", width=16, layers=1, heads=2, vocab_size=30, context=16))
    with pytest.raises(ConfigError, match="seq2seq"):
        with_head(t5, "classify", 2)
    with pytest.raises(ConfigError, match="encoder"):
        random_net("span", 2)
