"""NEFTune's noise: as large as the paper says, per document, in training only, and gone afterwards."""

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.objectives.tune.sft import Sft, noise_scale, noisy
from tests.parity.problems import decoder, packed


def net():
    return initialise(decoder(), 3)


def test_the_noise_is_uniform_within_alpha_over_the_root_of_length_times_width():
    segments = torch.tensor([[1] * 9 + [2] * 3])
    scale = noise_scale(segments, 16, alpha=5.0)
    assert scale[0, :9].tolist() == pytest.approx([5 / 12] * 9)
    assert scale[0, 9:].tolist() == pytest.approx([5 / (3 * 16) ** 0.5] * 3)
    model, tokens = net(), torch.arange(12)[None]
    clean = model.embed_tokens(tokens)
    with noisy(model, segments, 5.0), torch.no_grad():
        drawn = torch.stack([model.embed_tokens(tokens) - clean for _ in range(300)]) / scale[..., None]
    assert drawn.abs().max() <= 1.0001
    assert drawn.abs().max() > 0.99
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 / 3, abs=0.01)
    assert torch.equal(model.embed_tokens(tokens), clean)


def loss(model, **settings):
    objective = Sft(Sft.Settings(**settings))
    (phase,) = objective.phases
    torch.manual_seed(7)
    batch = packed(0, 0, 0)
    return objective.loss(phase, {"model": model}, batch, objective.count(phase, batch))[0]


def test_it_is_seeded_like_dropout_and_spares_evaluation():
    model = net()
    plain, noised = loss(model), loss(model, neftune=5.0)
    assert noised != plain
    assert noised == loss(model, neftune=5.0)
    noised.backward()
    assert loss(model.eval(), neftune=5.0) == plain == loss(model)


def test_a_net_without_embeddings_of_its_own_is_refused():
    with pytest.raises(ConfigError, match="objective.neftune: Linear has no embeddings"):
        loss(torch.nn.Linear(1, 1), neftune=5.0)
