import math

import pytest
import torch

from llmkit import registry
from llmkit.errors import ConfigError
from llmkit.models import blocks
from llmkit.models.heads import build
from llmkit.objectives.phase import add
from llmkit.objectives.text.causal import Causal
from llmkit.tokenizer.vocabulary import Tokenizer


class Given(torch.nn.Module):
    """A net whose negative log-likelihood of a labelled token is the token itself."""

    def nll(self, tokens, segments, labels):
        return tokens.float() * (labels >= 0)


def batch(nll: float, tokens: int, size: int = 32):
    labels = torch.full((1, size), -100)
    labels[:, :tokens] = 1
    return {
        "tokens": torch.full((1, size), nll),
        "segments": torch.ones(1, size, dtype=torch.int32),
        "labels": labels,
        "bytes": torch.tensor([4 * tokens]),
    }


def test_micro_batches_weigh_by_their_tokens_not_equally():
    """10 tokens at 2.0 nats and 30 at 1.0: 1.25, and not the mean of means, 1.5."""
    objective = Causal(Causal.Settings())
    (phase,) = objective.phases
    group = [batch(2.0, 10), batch(1.0, 30), batch(0.0, 0)]
    total = add(objective.count(phase, b) for b in group)
    shares, seen = zip(*(objective.loss(phase, {"model": Given()}, b, total) for b in group))
    assert math.isclose(sum(shares), 1.25, rel_tol=1e-6)
    figures = objective.metrics(phase, {k: float(v) for k, v in add(seen).items()})
    assert math.isclose(figures["loss"], 1.25, rel_tol=1e-6)
    assert math.isclose(figures["bits_per_byte"], 1.25 / 4 / math.log(2), rel_tol=1e-6)


class Lopsided(Given):
    """Two layers of two experts: the first sends everything to one, the second everything to the other."""

    def routed_nll(self, tokens, segments, labels):
        n = (segments > 0).sum().float()
        load = torch.stack([torch.stack([n, 0 * n]), torch.stack([0 * n, n])])
        return self.nll(tokens, segments, labels), {"balance": 2.0 + 0 * n, "router_z": 0 * n, "load": load}


def test_an_overloaded_expert_is_not_made_up_for_by_another_layer():
    objective = Causal(Causal.Settings())
    (phase,) = objective.phases
    total = objective.count(phase, batch(1.0, 10))
    _, seen = objective.loss(phase, {"model": Lopsided()}, batch(1.0, 10), total)
    figures = objective.metrics(phase, {k: float(v) for k, v in seen.items()})
    assert (figures["load_least"], figures["load_most"]) == (0.0, 2.0)


def test_prompts_are_continued_the_same_way_at_every_evaluation(tokenizer_dir):
    objective = Causal(Causal.Settings(prompts=["Permission is", "The"], continue_tokens=200))
    objective.tokenizer = Tokenizer.load(tokenizer_dir)
    shape = {"width": 32, "layers": 1, "heads": 2, "context": 48, "vocab_size": 400}
    settings = registry.find("model", "decoder").Settings(**shape)
    nets = {"model": blocks.initialise(build(settings), 1).eval()}
    shown = objective.show(nets)
    first, second = shown["continued.txt"].decode().strip().split("\n\n[")
    assert first.startswith("[Permission is] ")
    assert second.startswith("The] ")
    assert len(second) > len("The] ")
    assert objective.show(nets) == shown
    assert objective.shows
    assert not Causal(Causal.Settings()).shows


def test_an_encoder_decoder_has_nothing_to_go_on_with():
    settings = registry.find("model", "encdec").Settings(width=32, layers=1, heads=2, vocab_size=50)
    with pytest.raises(ConfigError, match="objective.prompts"):
        Causal(Causal.Settings(prompts=["a"])).build(lambda: build(settings))
