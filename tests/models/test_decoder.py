"""The decoder: packing, loss, recomputation, compilation, and what its settings refuse."""

import logging
from collections import Counter
from functools import partial

import pytest
import torch
from torch.nn.attention import flex_attention

from llmkit import config
from llmkit.errors import ConfigError
from llmkit.models import blocks, size
from llmkit.models.crossentropy import IGNORED
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.experts import Routing, balance
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


KINDS = {
    "llama": {},
    "gpt2": {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True, "kv_heads": 4},
    "sinusoidal": {"positions": "sinusoidal"},
    "qk_norm": {"qk_norm": True},
    "window": {"window": 5},
    "caps": {"attention_cap": 2.0, "logit_cap": 3.0},
    "experts": {"experts": 4, "mlp_dim": 32},
    "yarn": {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original": 32}},
    "mup": {"mup_width": 12},
}
"""One decoder for every option."""


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_have_the_loss_and_the_gradient_they_have_alone(kind):
    net = random_net(**KINDS[kind]).double()
    assert packing_error(net) < 1e-6
    batch = packed_batch()
    batch[2][batch[1] == 0] = IGNORED
    together, apart = grads(net, *batch), {}
    for r, a, b in PLACES:
        one = grads(net, batch[0][r : r + 1, a:b], None, batch[2][r : r + 1, a:b])
        apart = {name: grad + apart.get(name, 0) for name, grad in one.items()}
    norm = torch.cat([grad.flatten() for grad in together.values()]).norm()
    assert max((together[name] - apart[name]).norm() / norm for name in together) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_forward_is_the_whole_forward(kind):
    net = random_net(**KINDS[kind])
    tokens, past = packed_batch()[0], net.past(2, 24)
    parts = [net.hidden(part, None, past) for part in tokens.split([1, 7, 1, 15], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), net.hidden(tokens), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_counted_without_building(kind):
    net = random_net(**KINDS[kind])
    assert size.parameters_of(net.settings) == sum(p.numel() for p in net.parameters())


def test_a_window_hides_what_is_further_back():
    net = random_net(window=5, layers=1)
    tokens = packed_batch()[0]
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 400
    differs = (net.hidden(tokens) - net.hidden(changed)).abs().amax(-1)[0] > 1e-6
    assert differs.nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7]


CAPPED = {"window": 5, "attention_cap": 2.0}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("changes", [{}, {"window": 5}, {"attention_cap": 2.0}, CAPPED])
def test_flex_attention_is_told_what_the_dense_mask_says(changes, monkeypatch):
    """What compiled training on CUDA runs, in FlexAttention's own eager form."""
    monkeypatch.setattr(blocks, "_compiled", lambda function: function)
    net, (tokens, segments, _), drawn = random_net(**changes), packed_batch(), []
    dense, draw = net.hidden(tokens, segments), Decoder._mask

    def in_blocks(*args, **kwargs):
        drawn.append(draw(*args, **{**kwargs, "blocks": True}))
        return drawn[-1]

    monkeypatch.setattr(Decoder, "_mask", in_blocks)
    torch.testing.assert_close(net.hidden(tokens, segments), dense, atol=2e-4, rtol=1e-4)
    assert len(drawn) == 1
    assert not isinstance(drawn[0], torch.Tensor)


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


def test_experts_are_exact_sums_of_the_chosen_and_their_routing_is_counted():
    net = random_net(experts=4, mlp_dim=32, layers=1)
    layer = net.layers[0].mlp
    x = torch.randn(1, 6, 48, generator=torch.Generator().manual_seed(0))
    y, _ = layer(x)
    for t in range(6):
        best, chosen = layer.router(x[0, t]).softmax(-1).topk(2)
        expected = 0
        for weight, e in zip(best / best.sum(), chosen):
            gate, up = layer.gate_proj[e] @ x[0, t], layer.up_proj[e] @ x[0, t]
            expected = expected + weight * (layer.down_proj[e] @ (torch.nn.functional.silu(gate) * up))
        torch.testing.assert_close(y[0, t], expected, atol=1e-5, rtol=1e-4)
    tokens, segments, labels = packed_batch()
    _, found = net.routed_nll(tokens, segments, labels)
    assert found["load"].sum(1).tolist() == [2 * (segments > 0).sum()]
    even = balance(
        Routing(torch.zeros(1, 4, 4), torch.tensor([[[0, 1], [2, 3], [1, 2], [3, 0]]])), torch.ones(1, 4)
    )
    assert even.item() == pytest.approx(1.0)
    assert 1.0 <= found["balance"] / 2 <= 2.0


def test_a_wider_net_under_mup_learns_slower_inside_and_as_fast_outside():
    net = Decoder(Settings(width=96, heads=4, mup_width=24, vocab_size=50))
    assert net.lr_scale("layers.0.mlp.down_proj.weight") == 0.25
    assert net.lr_scale("embed_tokens.weight") == net.lr_scale("layers.0.input_layernorm.weight") == 1.0


def test_without_the_mask_windows_would_leak(monkeypatch):
    monkeypatch.setattr(Decoder, "_mask", lambda *args, **kwargs: None)
    assert packing_error(random_net(window=5)) > 1e-2


def test_without_the_mask_packed_documents_see_each_other(monkeypatch):
    monkeypatch.setattr(Decoder, "_mask", lambda *args, **kwargs: None)
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


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts products of matrices: of all tokens, and of groups of them with an expert each."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op in (torch.ops.aten.mm.default, torch.ops.aten._grouped_mm.default):
            self.seen[str(op)] += 1
        return op(*args, **(kwargs or {}))


def test_selective_recomputation_makes_no_product_again_and_full_all():
    seen = {}
    for kind in ("none", "selective", "full"):
        net = random_net(recompute=kind, experts=4, mlp_dim=32)
        with Products() as products, torch.autocast("cpu", torch.bfloat16):
            net.nll(*packed_batch()).sum().backward()
        seen[kind] = products.seen
    assert len(seen["none"]) == 2
    assert seen["selective"] == seen["none"] < seen["full"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"experts": 4, "mlp_dim": 32}])
def test_the_compiled_decoder_computes_the_same_and_generation_stays_eager(changes):
    batch, net = packed_batch(), random_net(**changes)
    eager, loss = grads(net, *batch), net.nll(*batch)
    net.compile()
    compiled = grads(net, *batch)
    torch.testing.assert_close(net.nll(*batch), loss, atol=1e-4, rtol=1e-5)
    for name, grad in eager.items():
        torch.testing.assert_close(compiled[name], grad, atol=1e-4, rtol=1e-3)
    assert net.state_dict().keys() == random_net(**changes).state_dict().keys()


@pytest.mark.slow
def test_selective_recomputation_keeps_products_when_compiled_too(monkeypatch):
    """What the backward keeps, with the compiler's own partition of the graph and no code generation."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))
    logging.getLogger("torch._higher_order_ops").setLevel(logging.ERROR)
    kept, found = {}, {}
    for kind in ("none", "selective", "full"):
        torch._dynamo.reset()
        net = random_net(recompute=kind)
        net.compile(mode=None)
        kept[kind], found[kind] = saved(net, *packed_batch()), grads(net, *packed_batch())
    assert 1.5 * kept["full"] < kept["selective"] < kept["none"] / 1.5
    for name, grad in found["none"].items():
        torch.testing.assert_close(found["selective"][name], grad, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_flex_attention_has_the_gradient_of_the_dense_mask_and_is_compiled_once(monkeypatch):
    """As on a GPU, but for the kernel: the graph that torch.compile takes, other documents at every step."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)  # no backward on a CPU
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net, dense = random_net(), random_net()
    net.compile(mode=None)
    mask = net._mask
    monkeypatch.setattr(net, "_mask", lambda *args, blocks: mask(*args, blocks=True))
    for shift in range(3):
        tokens, segments, labels = packed_batch()
        segments[:, : 5 + shift] += 7
        expected = grads(dense, tokens, segments, labels)
        for name, grad in grads(net, tokens, segments, labels).items():
            torch.testing.assert_close(grad, expected[name], atol=1e-4, rtol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # the block, and what follows


def saved(net, *batch) -> int:
    """Bytes that autograd keeps for the backward, beside the parameters."""
    seen, params = {}, {p.untyped_storage().data_ptr() for p in net.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net.nll(*batch).sum()
    del loss
    return sum(size for at, size in seen.items() if at not in params)


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
        ({"window": 0}, "window"),
        ({"experts": 2, "experts_per_token": 3}, "experts=2 are fewer than experts_per_token=3"),
        ({"experts": 4, "mlp": "gelu"}, "experts are swiglu layers"),
        ({"experts": 4, "mlp_dim": 20}, "mlp_dim=20 have to be multiples of 8"),
        (
            {"positions": "learned", "rope_scaling": {"kind": "linear", "factor": 2}},
            "rope_scaling does nothing",
        ),
        (
            {"rope_scaling": {"kind": "yarn", "factor": 2, "slow": 4, "fast": 2}},
            "slow=4.0 must be below fast",
        ),
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
