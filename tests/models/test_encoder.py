"""The encoder: packing, windows, loss, recomputation, and what its settings refuse."""

import pytest
import torch

from llmkit import config
from llmkit.errors import ConfigError
from llmkit.models import masks
from llmkit.models.blocks import initialise
from llmkit.models.crossentropy import IGNORED
from llmkit.models.encoder import Encoder, Settings
from tests.nets import wild

STYLES = ("bert", "modernbert")
PLACES = [(0, 0, 9), (0, 9, 24), (1, 0, 17)]


def small(style, **changes):
    """An encoder of 400 pieces whose every weight matters; a window of 8 shows inside 24 tokens."""
    sizes = {"width": 48, "layers": 4, "heads": 4, "vocab_size": 400, "context": 32, "init_std": 0.2}
    window = {"window": 8} if style == "modernbert" else {}
    return wild(Encoder(Settings(style=style, **(sizes | window | changes))))


def packed_batch():
    """Three documents in two rows, one row with padding: tokens, segments, labels (2, 24)."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 400, (2, 24), generator=generator)
    segments = torch.ones(2, 24, dtype=torch.int32)
    segments[0, 9:], segments[1, 17:] = 2, 0
    chosen = (torch.rand(2, 24, generator=generator) < 0.4) & (segments > 0)
    return tokens, segments, torch.where(chosen, tokens, IGNORED)


def losses_and_gradients(net, packed):
    """-> (nll, {name: gradient}), of the packed rows or of their documents one by one."""
    tokens, segments, labels = packed_batch()
    net.zero_grad()
    if packed:
        nll = net.nll(tokens, segments, labels)
        found = torch.cat([nll[r, a:b] for r, a, b in PLACES])
    else:
        rows = [(tokens[r : r + 1, a:b], None, labels[r : r + 1, a:b]) for r, a, b in PLACES]
        found = torch.cat([net.nll(*row)[0] for row in rows])
    found.sum().backward()
    return found.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}


def packing_error(net):
    """The largest difference of a loss in nats, and of a parameter's gradient relative to its norm.

    The gradient of a key's bias is zero but for rounding: below a thousandth of the whole norm, that counts.
    """
    (loss, grads), (loss_alone, alone) = (losses_and_gradients(net, packed) for packed in (True, False))
    least = 1e-3 * sum(g.norm() ** 2 for g in alone.values()) ** 0.5
    departures = [(grads[name] - g).norm() / max(g.norm(), least) for name, g in alone.items()]
    return (loss - loss_alone).abs().max().item(), max(departures).item()


@pytest.mark.parametrize("style", STYLES)
def test_packed_documents_have_the_loss_and_the_gradient_that_they_have_alone(style):
    loss, gradient = packing_error(small(style, init_std=0.1).double())
    assert loss < 1e-6
    assert gradient < 1e-5


@pytest.mark.parametrize("style", STYLES)
def test_without_the_mask_packed_documents_see_each_other(style, monkeypatch):
    rule = masks.within
    monkeypatch.setattr(masks, "within", lambda segments, n, **how: rule(torch.ones_like(segments), n, **how))
    loss, gradient = packing_error(small(style).double())
    assert loss > 1e-2
    assert gradient > 1e-2


def test_without_restarting_positions_a_packed_bert_has_another_loss(monkeypatch):
    monkeypatch.setattr("llmkit.models.encoder.positions", lambda s: torch.arange(s.shape[1]).expand(s.shape))
    assert packing_error(small("bert").double())[0] > 1e-2


@torch.no_grad()
def moved_by_position_12(net):
    """The positions whose hidden state changes with the token at 12."""
    tokens, changed = packed_batch()[0], packed_batch()[0]
    changed[:, 12] = (changed[:, 12] + 1) % 400
    return ((net.hidden(tokens) - net.hidden(changed)).abs().amax((0, 2)) > 1e-6).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("style", STYLES)
def test_a_token_sees_both_sides(style):
    assert moved_by_position_12(small(style)) == list(range(24))


def test_a_local_layer_sees_its_window_alone(monkeypatch):
    monkeypatch.setattr(Settings, "is_global", lambda self, layer: False)
    assert moved_by_position_12(small("modernbert", layers=1)) == list(range(8, 17))
    assert moved_by_position_12(small("modernbert", layers=2)) == list(range(4, 21))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("style", STYLES)
def test_nll_is_the_cross_entropy_of_the_logits_and_of_labelled_positions_alone(style, tie):
    net = small(style, tie=tie)
    tokens, segments, labels = packed_batch()
    logp = net.logits(net.hidden(tokens, segments)).log_softmax(-1)
    expected = -logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    nll = net.nll(tokens, segments, labels)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll[labels >= 0], expected[labels >= 0], atol=1e-4, rtol=1e-5)
    assert (nll[labels == IGNORED] == 0).all()


def test_a_batch_without_a_label_has_loss_and_gradients_of_zero():
    net = small("bert")
    tokens, segments, _ = packed_batch()
    net.nll(tokens, torch.zeros_like(segments), torch.full_like(tokens, IGNORED)).sum().backward()
    assert all((p.grad == 0).all() for p in net.parameters())


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputation_changes_no_gradient(recompute):
    plain, again = (
        losses_and_gradients(small("modernbert", recompute=r), True)[1] for r in ("none", recompute)
    )
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.slow
def test_the_compiled_encoder_computes_the_same():
    net = small("modernbert", layers=2)
    loss, grads = losses_and_gradients(net, True)
    net.compile()
    fast, found = losses_and_gradients(net, True)
    torch.testing.assert_close(fast, loss, atol=1e-4, rtol=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], grad, atol=1e-3, rtol=1e-3)


def test_meta_construction_gives_the_same_weights_and_no_buffer_is_left():
    settings = small("bert").settings
    with torch.device("meta"):
        empty = Encoder(settings)
    one, two = initialise(empty, seed=3), initialise(Encoder(settings), seed=3)
    assert all(p.equal(q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert list(one.buffers()) == []


def test_dropout_acts_in_training_only():
    net, (tokens, _, _) = small("bert", dropout=0.5), packed_batch()
    assert torch.equal(net.hidden(tokens), net.hidden(tokens))
    net.train()
    assert not torch.equal(net.hidden(tokens), net.hidden(tokens))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 30, "heads": 4}, "width=30 does not divide by heads=4"),
        ({"width": 36, "heads": 4}, "odd and cannot be rotated"),
        ({"window": 7}, "window=7 is odd"),
        ({"style": "roberta"}, "model.style"),
        ({"tokentypes": 4}, "did you mean token_types?"),
    ],
)
def test_a_shape_that_does_not_fit_is_a_config_error(changes, says):
    with pytest.raises(ConfigError) as error:
        config.resolve(Settings, {"name": "encoder", **changes})
    assert says.removeprefix("model.") in str(error.value)


def test_resolved_settings_resolve_to_themselves():
    for style in STYLES:
        settings = Settings(style=style, width=96, heads=3, vocab_size=7)
        assert Settings.model_validate(settings.model_dump()) == settings


def test_the_published_sizes():
    bert = Settings(style="bert", width=768, layers=12, heads=12)
    assert (bert.mlp_dim, bert.token_types, bert.norm_eps) == (3072, 2, 1e-12)
    modern = Settings(width=768, layers=22, heads=12)
    assert (modern.mlp_dim, modern.window, modern.token_types) == (1152, 128, 0)
    assert [modern.is_global(i) for i in range(4)] == [True, False, False, True]
