"""Adapters in memory: what learns, what is borrowed, what they add up to, and several of them by name."""

import pytest
import torch

from llmkit import config
from llmkit.engine import adapt
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import CheckpointError, ConfigError
from llmkit.models import lora
from llmkit.models.adapter import Adapter, canonical, check, merged
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder
from llmkit.models.encdec import EncDec
from llmkit.models.encoder import Encoder
from llmkit.models.heads import with_head
from llmkit.registry import find
from tests.nets import random_net
from tests.parity import problems

TOKENS = torch.randint(400, (2, 20), generator=torch.Generator().manual_seed(3))


def tuned(head: str = "lm", seed: int = 5, **settings) -> torch.nn.Module:
    """A net with an adapter that has learned something: no factor is 0."""
    net = lora.inject(random_net(head), Adapter(**{"rank": 4, **settings}))
    return learned(net, seed)


@torch.no_grad()
def learned(net, seed: int = 5):
    generator = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            p.normal_(0, 0.1, generator=generator)
        elif ".lora_magnitude_vector." in name:
            p.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def own(net) -> dict[str, torch.Tensor]:
    """What a checkpoint of `net` holds."""
    named = net.named_parameters()
    return {canonical(name): p.detach() for name, p in named if name not in net.borrowed}


@torch.no_grad()
def sum_of(net, settings: Adapter) -> torch.nn.Module:
    """The plain net with base and adapter added up by `adapter.merged`."""
    parts, out = own(net), random_net("score" if hasattr(net, "trunk") else "lm").double()
    for name, p in out.named_parameters():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in parts:
            a, b = (parts[f"{stem}.lora_{part}.weight"] for part in "AB")
            p.copy_(merged(p, a, b, parts.get(f"{stem}.lora_magnitude_vector.weight"), settings.scale))
    return out


@torch.no_grad()
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_sum_computes_what_base_and_adapter_compute_together(kind, rslora):
    settings = Adapter(rank=4, alpha=3.0, kind=kind, rslora=rslora)
    net = learned(lora.inject(random_net(), settings))
    nets = (random_net(), net, sum_of(net.double(), settings))  # in fp32 rounding alone makes 2e-5 of it
    base, both, alone = (n.double().hidden(TOKENS) for n in nets)
    assert (both - alone).abs().max() < 1e-9
    assert (both - base).abs().max() > 0.1  # it does something


@torch.no_grad()
def test_a_fresh_adapter_adds_nothing_and_an_absent_one_neither():
    with torch.device("meta"):
        net = Decoder(random_net().settings)
    fresh = initialise(lora.inject(net, Adapter(rank=2)), seed=7).eval()
    with torch.device("meta"):
        base = Decoder(net.settings)
    names = {canonical(name): p for name, p in fresh.named_parameters()}
    base.load_state_dict({name: names[name] for name in base.state_dict()}, assign=True)
    want = base.hidden(TOKENS)
    assert torch.equal(fresh.hidden(TOKENS), want)
    learned(fresh)
    assert not torch.allclose(fresh.hidden(TOKENS), want)
    assert torch.equal(lora.Bare(fresh).hidden(TOKENS), want)
    assert not torch.allclose(fresh.hidden(TOKENS), want)  # it is back


@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
@pytest.mark.parametrize("model", [Decoder, Encoder, EncDec])
def test_the_layers_go_by_rule_in_every_family(model, targets):
    sizes = {"width": 16, "layers": 1, "heads": 2, "vocab_size": 29}
    net = lora.inject(initialise(model(model.Settings(**sizes)), 1), Adapter(targets=targets, rank=2))
    adapted = {name.partition(".lora_A.")[0].rpartition(".")[2] for name in own(net) if ".lora_A." in name}
    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"up_proj", "down_proj"}
    assert adapted - {"gate_proj"} == {"attention": attention, "mlp": mlp, "all": attention | mlp}[targets]
    if targets != "mlp" and model is EncDec:
        assert any("cross_attn.q_proj.lora_A" in name for name in own(net))


def test_a_head_learns_with_the_adapter_and_nothing_else_does():
    with torch.device("meta"):
        shared = with_head(Decoder(random_net().settings), "lm_value")
    assert "value_head.weight" in own(lora.inject(shared, Adapter()))
    score = tuned("score", targets="mlp")
    assert {name for name in own(score) if "lora" not in name} == {"score.weight"}
    assert {name for name, p in score.named_parameters() if not p.requires_grad} == score.borrowed


def test_a_reference_without_adapter_gives_the_loss_of_a_live_copy():
    """DPO's two nets, and one net alone: same loss and gradient, on a policy that has moved away."""
    dpo = find("objective", "dpo")
    batch, found = problems.pairs(0, 0, 0), []
    for alone in (False, True):
        objective = dpo(dpo.Settings())
        with torch.device("meta"):
            nets = objective.build(problems.decoder)
        live = initialise(nets["reference"], problems.SEED)
        adapt.put_on(nets, objective, Adapter(rank=2))
        policy = learned(initialise(nets["model"], problems.SEED))
        named = {canonical(name): p for name, p in policy.named_parameters()}
        live.load_state_dict({name: named[name] for name in live.state_dict()})
        nets["reference"] = nets["reference"] if alone else live
        assert bool(list(nets["reference"].parameters())) is not alone
        (phase,), total = objective.phases, {"pairs": 2, "chosen_tokens": 9}
        (ready,) = objective.prepare([batch], nets, None, 0)
        loss, _ = objective.loss(phase, nets, ready, total)
        learning = [p for p in policy.parameters() if p.requires_grad]
        found.append((loss.detach(), *torch.autograd.grad(loss, learning)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert abs(float(found[0][0]) - 0.693147) > 1e-3  # which is the loss of two equal nets


@torch.no_grad()
def test_several_adapters_stand_side_by_side_by_name():
    settings = {name: Adapter(name=name, rank=rank) for name, rank in (("poet", 2), ("clerk", 5))}
    nets = {name: learned(lora.inject(random_net(), s), seed=s.rank) for name, s in settings.items()}
    net = random_net()
    for name, s in settings.items():
        lora.attach(net, s, own(nets[name]))
    for name in ("poet", "clerk", "poet"):
        lora.use(net, name)
        assert torch.equal(net.hidden(TOKENS), nets[name].hidden(TOKENS))
    lora.use(net, None)
    assert torch.equal(net.hidden(TOKENS), random_net().hidden(TOKENS))
    with pytest.raises(CheckpointError, match="do not fit"):
        lora.attach(net, Adapter(name="third", targets="mlp"), own(nets["poet"]))


RECIPE = {
    "init": "runs/base", "run": {"steps": 1}, "objective": {"name": "sft"},
    "data": {"name": "conversations", "data": "d", "tokenizer": "t"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"adapter.rank": 0}, r"adapter\.rank: 0 should be greater than 0"),
        ({"adapter.targets": "heads"}, r"adapter\.targets: \"heads\" should be 'attention', 'mlp' or 'all'"),
        ({"adapter.kind": "qlora"}, r"adapter: kind: qlora is not built: .*bitsandbytes on a GPU; use lora"),
        ({"adapter.name": "a.b"}, r"adapter\.name: \"a.b\""),
        ({"adapter.rnak": 3}, r"adapter\.rnak: no such setting; did you mean adapter\.rank\?"),
        (
            {"adapter.rank": 3, "init": None, "model": {"name": "decoder"}},
            "adapter: needs a base to stand on",
        ),
    ],
)
def test_bad_settings_are_one_line(changes, line):
    with pytest.raises(ConfigError, match=line) as caught:
        config.resolve(TrainRecipe, RECIPE, changes)
    assert "\n" not in str(caught.value)


def test_nets_that_cannot_take_an_adapter_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match="muP scales learning rates"):
        check(Adapter(), Decoder.Settings(mup_width=64))
    with pytest.raises(ConfigError, match=r"targets: all would be on experts.*use attention"):
        check(Adapter(), Decoder.Settings(experts=4))
    check(Adapter(targets="attention"), Decoder.Settings(experts=4))
    with torch.device("meta"), pytest.raises(ConfigError, match=r"has none of q_proj.*text nets"):
        lora.inject(torch.nn.Sequential(torch.nn.Linear(2, 2)), Adapter())
