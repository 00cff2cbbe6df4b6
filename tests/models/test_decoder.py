"""The decoder: packing, loss, recomputation, compilation, and what its settings refuse."""

import pytest
import torch

from llmkit import config
from llmkit.errors import ConfigError
from llmkit.models import blocks
from llmkit.models.crossentropy import IGNORED
from llmkit.models.decoder import Decoder, Settings
from tests.nets import random_net


def packed_batch():
    """Three documents in two rows, one row with padding: tokens, segments, labels (2, 24)."""
    tokens = torch.randint(0, 400, (2, 24), generator=torch.Generator().manual_seed(5))
    segments = torch.ones(2, 24, dtype=torch.int32)
    segments[0, 9:], segments[1, 17:] = 2, 0
    labels = torch.where(segments == segments.roll(-1, 1), tokens.roll(-1, 1), IGNORED)
    labels[:, -1] = IGNORED
    return tokens, segments, labels


def grads(net, tokens, segments, labels):
    net.zero_grad()
    net.nll(tokens, segments, labels).sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def packing_error(net):
    tokens, segments, labels = packed_batch()
    packed = net.nll(tokens, segments, labels)
    alone = [net.nll(tokens[r : r + 1, a:b], None, labels[r : r + 1, a:b]) for r, a, b in PLACES]
    pieces = [packed[r : r + 1, a:b] for r, a, b in PLACES]
    return max((x - y).abs().max().item() for x, y in zip(alone, pieces, strict=True))


PLACES = [(0, 0, 9), (0, 9, 24), (1, 0, 17)]


def test_packed_documents_have_the_loss_they_have_alone():
    assert packing_error(random_net()) < 1e-4


def test_without_the_mask_packed_documents_see_each_other(monkeypatch):
    monkeypatch.setattr("llmkit.models.decoder.block_diagonal", lambda segments, queries, prefix: None)
    assert packing_error(random_net()) > 1e-2


def test_without_restarting_positions_a_rotation_is_the_same_but_segments_still_separate(monkeypatch):
    """Rotary scores know distances only, so restarting changes rounding alone; the mask separates."""
    monkeypatch.setattr("llmkit.models.decoder.positions", lambda s: torch.arange(s.shape[1]).expand(s.shape))
    assert packing_error(random_net()) < 1e-3


def test_no_token_sees_a_later_one():
    net = random_net()
    tokens, _, _ = packed_batch()
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 400
    before, after = net.hidden(tokens), net.hidden(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12] - after[:, 12]).abs().max() > 1e-2


def test_a_prefix_is_seen_from_everywhere_in_its_document_and_nowhere_else():
    """Which positions a change of one token reaches, one after the other, against the rule written out."""
    net, (tokens, segments, _) = random_net(), packed_batch()
    prefix = torch.zeros(2, 24, dtype=torch.bool)
    prefix[0, :4], prefix[0, 9:12], prefix[1, :6] = True, True, True
    with torch.no_grad():
        before = net.hidden(tokens, segments, prefix=prefix)
        for row, place in [(0, 2), (0, 6), (0, 11), (0, 15), (1, 0), (1, 5), (1, 6), (1, 16)]:
            changed = tokens.clone()
            changed[row, place] = (changed[row, place] + 1) % 400
            moved = (net.hidden(changed, segments, prefix=prefix) - before).abs().amax(-1) > 1e-6
            document = segments[row] == segments[row, place]
            expected = document if prefix[row, place] else document & (torch.arange(24) >= place)
            assert moved[row].tolist() == expected.tolist()
            assert not moved[1 - row].any()


def test_nll_is_the_cross_entropy_of_the_logits():
    net = random_net(tie=False)
    tokens, segments, labels = packed_batch()
    logp = net.logits(net.hidden(tokens, segments)).log_softmax(-1)
    expected = -logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    nll = net.nll(tokens, segments, labels)
    torch.testing.assert_close(nll[labels >= 0], expected[labels >= 0], atol=1e-4, rtol=1e-5)
    assert (nll[labels == IGNORED] == 0).all()


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputation_changes_no_gradient(recompute):
    batch = packed_batch()
    plain, recomputed = (grads(random_net(recompute=r), *batch) for r in ("none", recompute))
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def saved_bytes(recompute):
    net, kept = random_net(recompute=recompute), 0

    def pack(x):
        nonlocal kept
        kept += x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        net.nll(*packed_batch())
    return kept


def test_full_recomputation_keeps_the_least():
    assert saved_bytes("full") < saved_bytes("none") / 3


@pytest.mark.slow
def test_the_compiled_decoder_computes_the_same_and_generation_stays_eager():
    batch, net = packed_batch(), random_net()
    eager, loss = grads(net, *batch), net.nll(*batch)
    net.compile()
    compiled = grads(net, *batch)
    torch.testing.assert_close(net.nll(*batch), loss, atol=1e-4, rtol=1e-5)
    for name, grad in eager.items():
        torch.testing.assert_close(compiled[name], grad, atol=1e-4, rtol=1e-3)
    assert net.state_dict().keys() == random_net().state_dict().keys()


def test_untied_and_tied_nets_differ_by_one_matrix():
    tied, untied = (dict(random_net(tie=t).named_parameters()) for t in (True, False))
    assert untied.keys() - tied.keys() == {"lm_head.weight"}


def test_dropout_acts_in_training_only():
    net, (tokens, _, _) = random_net(dropout=0.5), packed_batch()
    assert torch.equal(net.hidden(tokens), net.hidden(tokens))
    net.train()
    assert not torch.equal(net.hidden(tokens), net.hidden(tokens))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 30, "heads": 4}, "width=30 does not divide by heads=4"),
        ({"heads": 4, "kv_heads": 3}, "heads=4 does not divide by kv_heads=3"),
        ({"width": 36, "heads": 4}, "head_dim=9 is odd"),
        ({"hedas": 4}, "did you mean heads?"),
    ],
)
def test_a_shape_that_does_not_fit_is_a_config_error(changes, says):
    with pytest.raises(ConfigError) as error:
        config.resolve(Settings, {"name": "decoder", **changes})
    assert says in str(error.value)


def test_a_decoder_without_a_vocabulary_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"model\.vocab_size"):
        Decoder(Settings())


def test_resolved_settings_resolve_to_themselves():
    settings = Settings(width=96, heads=3, vocab_size=7)
    assert Settings.model_validate(settings.model_dump()) == settings
    assert (settings.head_dim, settings.kv_heads, settings.mlp_dim) == (32, 3, 256)


def test_flex_attention_masks_by_the_same_rule():
    segments = packed_batch()[1]
    flex = blocks.flex_mask(segments)
    q, k = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    for row in range(2):
        allowed = flex.mask_mod(torch.tensor(row), torch.tensor(0), q, k)
        assert torch.equal(allowed, blocks.block_diagonal(segments)[row, 0])
