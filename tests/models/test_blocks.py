"""Masks, positions, rotation and initialisation."""

import pytest
import torch

from llmkit.models import blocks, masks
from llmkit.models.blocks import attend, initialise, positions, rope, rotate
from llmkit.models.decoder import Decoder, Settings

PACKED = torch.tensor([[1, 1, 1, 2, 2, 0, 0], [0, 0, 1, 1, 1, 1, 1]], dtype=torch.int32)


def test_positions_restart_with_every_document_and_ignore_left_padding():
    assert positions(PACKED).tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 1, 0, 1, 2, 3, 4]]


def test_rotary_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float32)

    def score(i, j):
        turned = [rotate(x, rope(torch.tensor([[at]]), 16, 100.0)) for x, at in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum()

    assert score(3, 1) == pytest.approx(score(13, 11).item(), abs=1e-4)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_written_out_attention_equals_the_fused_kernel(kv_heads, masked, monkeypatch):
    q, k, v = torch.randn(2, 4, 7, 8), torch.randn(2, kv_heads, 7, 8), torch.randn(2, kv_heads, 7, 8)
    allowed = masks.within(PACKED, 7, causal=True)
    mask = masks.dense(allowed, 2, 7, 7, "cpu") if masked else None
    short = attend(q, k, v, mask)
    monkeypatch.setattr(blocks, "SHORT", 0)
    torch.testing.assert_close(short, attend(q, k, v, mask), atol=1e-6, rtol=1e-5)


def settings(**changes):
    return Settings(**({"width": 32, "layers": 2, "heads": 2, "vocab_size": 50} | changes))


def test_weights_depend_on_seed_and_name_and_not_on_how_the_net_was_built():
    plain = initialise(Decoder(settings()), seed=3)
    with torch.device("meta"):
        empty = Decoder(settings(layers=4))
    deeper = initialise(empty, seed=3)
    assert not any(p.is_meta for p in deeper.parameters())
    scaled = ("o_proj.weight", "down_proj.weight")
    for name, p in plain.named_parameters():
        if not name.endswith(scaled):
            assert torch.equal(p, deeper.get_parameter(name)), name
    other = initialise(Decoder(settings()), seed=4)
    assert not torch.equal(plain.embed_tokens.weight, other.embed_tokens.weight)


def test_no_two_matrices_start_alike():
    net = initialise(Decoder(settings()), seed=1)
    first, second = (layer.mlp.gate_proj.weight for layer in net.layers)
    assert not torch.equal(first, second)
    assert not torch.equal(first, net.layers[0].mlp.up_proj.weight)


def test_initial_scale_is_init_std_and_shrinks_with_depth_on_residual_outputs():
    net = initialise(Decoder(settings(width=128, layers=8, init_std=0.05)), seed=1)
    assert net.layers[0].mlp.gate_proj.weight.std().item() == pytest.approx(0.05, rel=0.03)
    assert net.layers[0].mlp.down_proj.weight.std().item() == pytest.approx(0.05 / 4, rel=0.03)
    assert torch.equal(net.norm.weight, torch.ones(128))


def test_a_net_has_no_buffers_that_meta_construction_would_leave_empty():
    assert list(Decoder(settings()).buffers()) == []
