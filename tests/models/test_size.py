"""Counts against torch's own: parameters, FLOPs; and the table of peak rates."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmkit.models import encdec, encoder, size
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.encdec import EncDec
from llmkit.models.encoder import Encoder
from tests.nets import random_net, wild


@pytest.mark.parametrize("changes", [{}, {"tie": False}, {"kv_heads": 4}, {"head_dim": 8}, {"mlp_dim": 100}])
def test_the_formula_counts_the_parameters_that_are_there(changes):
    net = random_net(**changes)
    assert size.parameters(net) == size.parameters_of(net.settings)


def test_a_net_on_the_meta_device_can_be_counted():
    with torch.device("meta"):
        shape = {"width": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "mlp_dim": 14336}
        net = Decoder(Settings(**shape, vocab_size=128256, tie=False))
    assert size.parameters(net) == 8_030_261_248  # Llama-3-8B


@pytest.mark.parametrize("tie", [True, False])
def test_flops_per_token_are_those_that_torch_counts(tie):
    net, T = random_net(tie=tie), 32
    tokens = torch.randint(0, 400, (2, T))
    with FlopCounterMode(display=False) as counter:
        net.nll(tokens, None, tokens).sum().backward()
    s = net.settings
    uncounted = 3 * s.layers * 4 * s.heads * s.head_dim * (T - 1) / 2  # torch counts what is masked, too
    assert counter.get_total_flops() / tokens.numel() == size.flops_per_token(s, T) + uncounted


@pytest.mark.parametrize("style", ["bert", "modernbert"])
def test_an_encoder_is_counted_as_torch_counts_it(style):
    net, T = wild(Encoder(encoder.Settings(style=style, width=48, vocab_size=400, context=32))), 32
    tokens = torch.randint(0, 400, (2, T))
    labels = torch.where(torch.arange(T) % 4 == 0, tokens, -100)
    with FlopCounterMode(display=False) as counter:
        net.nll(tokens, None, labels).sum().backward()
    counted = counter.get_total_flops() / tokens.numel()
    assert counted == size.encoder_flops(net.settings, T, labelled=1 / 4)
    assert size.parameters(net) == size.parameters_of(net.settings)
    assert size.flops_of(net.settings, T) == size.encoder_flops(net.settings, T, 0.15)


def test_local_layers_are_counted_by_what_they_see():
    wide, local = (encoder.Settings(layers=2, window=w, global_every=2, vocab_size=400) for w in (0, 4))
    seen = sum(abs(i - j) <= 2 for i in range(32) for j in range(32)) / 32
    difference = size.encoder_flops(wide, 32) - size.encoder_flops(local, 32)
    assert difference == pytest.approx(3 * 4 * local.width * (32 - seen))


@pytest.mark.parametrize("style", ["transformer", "t5", "bart"])
def test_an_encoder_decoder_is_counted_as_torch_counts_it(style):
    sizes = {"width": 48, "layers": 1, "decoder_layers": 2, "vocab_size": 400, "context": 32}
    net, S, T = wild(EncDec(encdec.Settings(style=style, **sizes))), 32, 20
    source, tokens = torch.randint(0, 400, (2, S)), torch.randint(0, 400, (2, T))
    with FlopCounterMode(display=False) as counter:
        net.nll(tokens, None, tokens, source=source).sum().backward()
    s = net.settings
    masked = 3 * T * s.decoder_layers * 4 * s.heads * s.head_dim * (T - 1) / 2 / (S + T)
    counted = counter.get_total_flops() / (2 * (S + T))
    assert counted == pytest.approx(size.flops_of(s, S, T) + masked, rel=1e-12)
    assert size.parameters(net) == size.parameters_of(s)


def test_forward_alone_is_a_third():
    s = random_net().settings
    assert size.flops_per_token(s, 64, training=False) * 3 == size.flops_per_token(s, 64)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", 181.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_known_devices_have_their_data_sheet_rate(name, tera):
    assert size.peak_flops(name) == tera * 1e12


def test_fp32_products_have_a_rate_of_their_own_and_tf32_half_of_bf16s():
    kinds = ("bf16", "tf32", "fp32")
    assert [size.peak_flops("NVIDIA A100-SXM4-80GB", kind) for kind in kinds] == [312e12, 156e12, 19.5e12]
    assert size.peak_flops("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "fp32") is None


@pytest.mark.parametrize(
    "name",
    ["", "EPYC", "NVIDIA H300", "NVIDIA A1000", "GeForce RTX 4090 D", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"],
)
def test_an_unknown_device_has_no_rate_and_no_utilisation(name):
    assert size.peak_flops(name) is None
    assert size.utilisation(random_net().settings, 64, 1e6, name) is None


def test_utilisation_is_the_useful_share_of_the_peak():
    s = Settings(width=4096, layers=32, heads=32, mlp_dim=11008, vocab_size=32000, tie=False)  # Llama-2-7B
    assert size.utilisation(s, 2048, 10_643, "NVIDIA H100 80GB HBM3") == pytest.approx(0.45, abs=0.02)
