"""The encoder-decoder: packing of both sides, positions, loss, the cache, and what its settings refuse."""

import math

import pytest
import torch

from llmkit import config
from llmkit.engine import optim
from llmkit.engine.recipe import Optim
from llmkit.errors import ConfigError
from llmkit.models import masks
from llmkit.models.blocks import initialise
from llmkit.models.crossentropy import IGNORED
from llmkit.models.encdec import EncDec, Settings, bucket
from llmkit.objectives.text.causal import summed_nll
from tests.nets import wild

STYLES = ("transformer", "t5", "bart")
PLACES = [(0, 0, 9, 0, 14), (0, 9, 24, 14, 30), (1, 0, 17, 0, 20)]
"""(row, target from, to, source from, to) of every document."""


def small(style, **changes):
    """A net of 400 pieces whose every weight matters, with a decoder deeper than its encoder."""
    sizes = {"width": 48, "layers": 2, "decoder_layers": 3, "heads": 4, "vocab_size": 400, "context": 32}
    return wild(EncDec(Settings(style=style, **(sizes | {"init_scale": 2.0} | changes))))


def packed_batch():
    """Three documents in two rows, padding on both sides of one."""
    generator = torch.Generator().manual_seed(5)
    source, tokens, labels = (torch.randint(0, 400, (2, n), generator=generator) for n in (30, 24, 24))
    segments, source_segments = torch.zeros(2, 24, dtype=torch.int32), torch.zeros(2, 30, dtype=torch.int32)
    for number, (r, a, b, c, d) in zip((1, 2, 1), PLACES, strict=True):
        segments[r, a:b], source_segments[r, c:d] = number, number
    labels[segments == 0] = IGNORED
    labels[0, 3] = IGNORED
    return {
        "tokens": tokens, "segments": segments, "labels": labels,
        "source": source, "source_segments": source_segments,
    }  # fmt: skip


def alone(batch):
    """The documents of `batch`, each as a batch of one row without segments."""
    for r, a, b, c, d in PLACES:
        row = {key: batch[key][r : r + 1, a:b] for key in ("tokens", "labels")}
        yield row | {"segments": None, "source": batch["source"][r : r + 1, c:d]}


def losses_and_gradients(net, packed):
    """-> (nll, {name: gradient}), of the packed rows or of their documents one by one."""
    batch = packed_batch()
    net.zero_grad()
    if packed:
        nll = net.nll(**batch)
        found = torch.cat([nll[r, a:b] for r, a, b, _, _ in PLACES])
    else:
        found = torch.cat([net.nll(**row)[0] for row in alone(batch)])
    found.sum().backward()
    return found.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}


def packing_error(net):
    """The largest difference of a loss in nats, and of a parameter's gradient relative to its norm.

    The gradient of a key's bias is zero but for rounding: below a thousandth of the whole norm, that counts.
    """
    (loss, grads), (loss_alone, one_by_one) = (losses_and_gradients(net, packed) for packed in (True, False))
    least = 1e-3 * sum(g.norm() ** 2 for g in one_by_one.values()) ** 0.5
    departures = [(grads[name] - g).norm() / max(g.norm(), least) for name, g in one_by_one.items()]
    return (loss - loss_alone).abs().max().item(), max(departures).item()


@pytest.mark.parametrize("style", STYLES)
def test_packed_documents_have_the_loss_and_the_gradient_that_they_have_alone(style):
    loss, gradient = packing_error(small(style).double())
    assert loss < 1e-6
    assert gradient < 1e-5


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("which", ["within", "across"])
def test_without_a_mask_packed_documents_see_each_other(style, which, monkeypatch):
    rule = getattr(masks, which)

    def blind(*segments, **how):
        return rule(*(torch.ones_like(s) if torch.is_tensor(s) else s for s in segments), **how)

    monkeypatch.setattr(masks, which, blind)
    loss, gradient = packing_error(small(style).double())
    assert loss > 1e-3
    assert gradient > 1e-3


@pytest.mark.parametrize("style", ["transformer", "bart"])
def test_without_restarting_positions_a_packed_loss_is_another(style, monkeypatch):
    monkeypatch.setattr("llmkit.models.encdec.positions", lambda s: torch.arange(s.shape[1]).expand(s.shape))
    assert packing_error(small(style).double())[0] > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_the_decoder_is_causal_and_the_encoder_is_not(style):
    net, batch = small(style), packed_batch()
    tokens, source = batch["tokens"], batch["source"]
    later, other = tokens.clone(), source.clone()
    later[:, 12], other[:, 12] = (later[:, 12] + 1) % 400, (other[:, 12] + 1) % 400
    before, after = net.hidden(tokens, source=source), net.hidden(later, source=source)
    moved = ((before - after).abs().amax((0, 2)) > 1e-6).nonzero()[:, 0]
    assert moved.tolist() == list(range(12, 24))
    assert ((net.encode(source) - net.encode(other)).abs().amax((0, 2)) > 1e-6).all()
    assert ((before - net.hidden(tokens, source=other)).abs().amax((0, 2)) > 1e-6).all()


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("style", STYLES)
def test_nll_is_the_cross_entropy_of_the_logits(style, tie):
    net, batch = small(style, tie=tie), packed_batch()
    labels = batch["labels"]
    hidden = net.hidden(**{key: value for key, value in batch.items() if key != "labels"})
    logp = net.logits(hidden).log_softmax(-1)
    expected = -logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    nll = net.nll(**batch)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll[labels >= 0], expected[labels >= 0], atol=1e-4, rtol=1e-5)
    assert (nll[labels == IGNORED] == 0).all()
    assert summed_nll(net, batch) == nll.sum()


@pytest.mark.parametrize("style", STYLES)
def test_a_batch_of_padding_has_loss_and_gradients_of_zero(style):
    net, batch = small(style), packed_batch()
    for key in ("segments", "source_segments"):
        batch[key] = torch.zeros_like(batch[key])
    net.nll(**batch | {"labels": torch.full_like(batch["labels"], IGNORED)}).sum().backward()
    assert all((p.grad == 0).all() for p in net.parameters())


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_the_cache_computes_what_a_whole_forward_does(style):
    """With sources of several lengths, padded on the left as generation pads them."""
    net, batch = small(style), packed_batch()
    source, tokens = batch["source"], batch["tokens"]
    sides = torch.ones_like(source)
    sides[0, :11] = 0
    past, ones = net.past(2, 24, source, sides), torch.ones_like(tokens)
    steps = [net.hidden(tokens[:, i : i + 3], ones[:, i : i + 3], past) for i in range(0, 24, 3)]
    short = net.hidden(tokens[:1], source=source[:1, 11:])
    torch.testing.assert_close(torch.cat(steps, 1)[:1], short, atol=2e-5, rtol=1e-4)
    whole = net.hidden(tokens, source=source, source_segments=sides)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_cache_goes_on_with_the_rows_that_are_kept():
    net, batch = small("t5"), packed_batch()
    source, tokens, rows = batch["source"], batch["tokens"], torch.tensor([1, 1, 0])
    past = net.past(2, 24, source)
    net.hidden(tokens[:, :10], past=past)
    past.keep(rows)
    found = net.hidden(tokens[rows, 10:], past=past)
    torch.testing.assert_close(found, net.hidden(tokens, source=source)[rows, 10:], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputation_changes_no_gradient(recompute):
    plain, again = (losses_and_gradients(small("t5", recompute=r), True)[1] for r in ("none", recompute))
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.slow
def test_the_compiled_net_computes_the_same():
    net = small("t5", layers=1, decoder_layers=1)
    loss, grads = losses_and_gradients(net, True)
    net.compile()
    fast, found = losses_and_gradients(net, True)
    torch.testing.assert_close(fast, loss, atol=1e-4, rtol=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], grad, atol=1e-3, rtol=1e-3)


def test_long_rows_go_through_the_fused_kernel_with_the_same_result(monkeypatch):
    net, batch = small("t5"), packed_batch()
    written_out = net.nll(**batch)
    monkeypatch.setattr("llmkit.models.blocks.SHORT", 0)
    torch.testing.assert_close(net.nll(**batch), written_out, atol=1e-4, rtol=1e-5)


def test_distances_fall_into_the_published_buckets():
    """Figures of mesh-tensorflow's docstring: 16 exact ones a side of 8, logarithmic ones up to 128."""
    distance = torch.tensor([-200, -128, -20, -8, -7, -1, 0, 1, 7, 8, 20, 128])
    assert bucket(distance, 32, 128, both_ways=True).tolist() == [15, 15, 10, 8, 7, 1, 0, 17, 23, 24, 26, 31]
    assert bucket(distance, 32, 128, both_ways=False).tolist() == [31, 31, 17, 8, 7, 1, 0, 0, 0, 0, 0, 0]


def test_meta_construction_gives_the_same_weights_and_no_buffer_is_left():
    settings = small("t5").settings
    with torch.device("meta"):
        empty = EncDec(settings)
    one, two = initialise(empty, seed=3), initialise(EncDec(settings), seed=3)
    assert all(p.equal(q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert list(one.buffers()) == []


@pytest.mark.parametrize("style", STYLES)
def test_a_fresh_net_is_as_good_as_a_uniform_guess(style):
    net = initialise(EncDec(Settings(style=style, width=128, vocab_size=400)), seed=1)
    loss = net.nll(**packed_batch())
    assert loss[loss > 0].mean().item() == pytest.approx(math.log(400), abs=0.7)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 30, "heads": 4}, "width=30 does not divide by heads=4"),
        ({"style": "bart", "head_dim": 20}, "only t5 has heads of another width"),
        ({"style": "transformer", "width": 15, "heads": 3}, "is odd"),
        ({"buckets": 30}, "buckets=30 has to be a multiple of 4"),
        ({"style": "t6"}, "style"),
        ({"decoderlayers": 4}, "did you mean decoder_layers?"),
    ],
)
def test_a_shape_that_does_not_fit_is_a_config_error(changes, says):
    with pytest.raises(ConfigError) as error:
        config.resolve(Settings, {"name": "encdec", **changes})
    assert says in str(error.value)


def test_resolved_settings_resolve_to_themselves():
    for style in STYLES:
        settings = Settings(style=style, width=96, heads=3, vocab_size=7)
        assert Settings.model_validate(settings.model_dump()) == settings


def test_the_published_sizes():
    t5 = Settings(width=768, layers=12, heads=12)
    assert (t5.mlp_dim, t5.head_dim, t5.tie, t5.start) == (2048, 64, False, "pad")
    bart = Settings(style="bart", width=768, layers=6, heads=12)
    assert (bart.mlp_dim, bart.tie, bart.start) == (3072, True, "eos")


def test_the_steps_of_a_t5_allow_for_its_unscaled_scores_unless_the_rule_does():
    scores = ("encoder.embed_distances.weight", "decoder.layers.0.cross_attn.q_proj.weight")
    net = EncDec(Settings(style="t5", width=64, layers=1, heads=4, vocab_size=99))

    def rates(rule):
        groups = optim.build(net, Optim(name=rule, lr=1.0)).param_groups
        of = {id(p): group["lr"] for group in groups for p in group["params"]}
        return [of[id(net.get_parameter(name))] for name in (*scores, "decoder.layers.0.mlp.up_proj.weight")]

    assert rates("adamw") == rates("muon") == [4.0, 0.25, 1.0]
    assert rates("adamw_rms") == rates("adafactor") == [1.0, 1.0, 1.0]
    assert EncDec(Settings(style="bart", width=64, layers=1, vocab_size=99)).step_scale(scores[1]) == 1.0


@pytest.mark.slow
def test_a_tiny_t5_learns_where_to_look_and_does_not_with_steps_that_are_alike(monkeypatch):
    assert named_before_a_sentinel() < 1.0
    monkeypatch.setattr(EncDec, "step_scale", lambda self, name: 1.0)
    assert named_before_a_sentinel() > 3.5


def named_before_a_sentinel(steps=150, rows=32, length=12, kinds=60):
    """The loss of naming the piece in front of a sentinel in random text; log 60 = 4.1 without reading."""
    net = initialise(EncDec(Settings(style="t5", width=64, layers=2, heads=2, vocab_size=kinds + 2)), 0)
    optimizer = optim.build(net, Optim(name="muon", lr=8e-3, betas=(0.9, 0.98)))
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        source = torch.randint(2, kinds + 2, (rows, length), generator=generator)
        at = torch.randint(1, length, (rows, 1), generator=generator)
        labels = source.gather(1, at - 1)
        source.scatter_(1, at, 1)
        batch = {"tokens": torch.zeros_like(labels), "segments": torch.ones_like(labels), "labels": labels}
        loss = summed_nll(net, {**batch, "source": source}) / rows
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10
