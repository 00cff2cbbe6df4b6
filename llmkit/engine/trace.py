"""One micro-batch of every phase of a recipe, forward and backward, on tensors that hold no memory.

recipe ─► nets as fake tensors ──┐
batch ─► the same, with numbers ─┴─► objective.loss, backward ─► bytes alive (live.py), FLOPs
         (known.py)
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from llmkit import registry
from llmkit.engine import adapt, optim
from llmkit.engine.known import Known
from llmkit.engine.live import Live
from llmkit.engine.memory import Net, Traced
from llmkit.engine.recipe import TrainRecipe
from llmkit.models.heads import build


def trace(recipe: TrainRecipe, batch: dict[str, Any], bf16: bool) -> Traced:
    """Run forward and backward of every phase on fake tensors."""
    objective = registry.find("objective", recipe.objective.name)(recipe.objective)
    nets: dict[str, Net] = {}
    flops = 0.0
    for phase in objective.phases:
        found = _run(recipe, objective, phase, batch, bf16, release=False)
        bare = _run(recipe, objective, phase, batch, bf16, release=True)
        (first, later), (least,) = found.peaks, bare.peaks
        net = Net(**found.net, first=first, later=later, bare=least, logits=found.logits)
        nets[phase.net] = max(net, nets.get(phase.net, net), key=lambda each: each.first)
        flops += found.flops * phase.updates / phase.every
    return Traced(tuple(nets.values()), found.frozen, flops)


class Run(NamedTuple):
    """Forward and backward of a phase."""

    peaks: list[int]
    """Bytes beyond weights and batch: of a first micro-batch, of one that finds gradients already there."""
    logits: int
    flops: float
    """Of one micro-batch."""
    frozen: int
    """Bytes of nets that no phase trains."""
    net: dict[str, int]
    """What is known of the trained one without a batch."""


def _run(recipe, objective, phase, batch, bf16, release) -> Run:
    """`release`: one micro-batch, whose gradients go as soon as they are there; else two."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    known = Known(mode)
    with mode:
        nets = _nets(recipe, objective, phase)
        net = nets[phase.net]
        facts = _optimizer_facts(net, recipe.optim.of(phase.net))
        half, learning = recipe.parallel.weights == "bf16", {each.net for each in objective.phases}
        for name in learning if half else ():
            _materialise(nets[name], torch.bfloat16)
        trained = [p for p in net.parameters() if p.requires_grad]
        facts |= {"trained": _bytes(*trained), "borrowed": _bytes(*net.parameters()) - _bytes(*trained)}
        frozen = _bytes(*(p for name in nets.keys() - learning for p in nets[name].parameters()))
        for p in trained if release else ():
            p.register_post_accumulate_grad_hook(_drop)
        fake = dict(batch)
        for key, value in batch.items():
            if torch.is_tensor(value):
                fake[key] = mode.from_tensor(value)
                known.tell(fake[key], value)
        with known:
            fake = _prepared(objective, nets, net, fake)
        weights = (p for each in nets.values() for p in each.parameters())
        live = Live(weights, getattr(recipe.model, "vocab_size", 0))
        for value in fake.values():
            if torch.is_tensor(value):
                live.add(value)
        base, peaks, logits = live.now, [], 0
        with known, live:
            for _ in range(1 if release else 2):
                live.peak = live.now
                total = {key: torch.ones(()) for key in objective.count(phase, fake)}
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and not half):
                    share, _seen = objective.loss(phase, nets, fake, total)
                share.backward()
                del share, _seen
                peaks.append(live.peak - base)
                logits = logits or live.peak_logits
    return Run(peaks, logits, live.flops / len(peaks), frozen, facts)


def _nets(recipe: TrainRecipe, objective, phase) -> dict[str, nn.Module]:
    """All nets as fake tensors, as they are in training; only the phase's own has gradients."""

    def make(head="lm", net="", outputs=None, **changes):
        return build(recipe.model.model_copy(update=changes), head, outputs)

    if not recipe.adapter:
        nets = objective.build(make)
    else:  # peft moves what it makes, which fake tensors do not bear
        with unset_fake_temporarily(), torch.device("meta"):
            nets = adapt.put_on(objective.build(make), objective, recipe.adapter)
        for net in nets.values():
            _materialise(net)
    for name, net in nets.items():
        net.train()
        if name != phase.net:
            net.requires_grad_(False)
    return nets


@torch.no_grad()
def _prepared(objective, nets, net, batch):
    """The micro-batch with what a reference says of it, which the loss of preferences reads."""
    if objective.column:
        batch = {**batch, objective.column: objective.cell(net, batch)}
    return objective.prepare([batch], nets, lambda sums: sums, 0)[0] if "tokens" in batch else batch


def _optimizer_facts(net: torch.nn.Module, settings) -> dict[str, int]:
    """What does not depend on the precision of the weights: masters and moments are fp32."""
    optimizer = optim.build(net, settings)
    params = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    states = [optimizer.fresh(p, group) for p, group in params]
    return {
        "numel": sum(p.numel() for p, _ in params),
        "largest": max(p.numel() for p, _ in params),
        "moments": _bytes(*(v for state in states for kind, v in state.items() if kind != "step")),
        "step": _step_bytes(settings.name, optimizer),
    }


def _materialise(net: torch.nn.Module, dtype: torch.dtype | None = None) -> None:
    """Put fake tensors, of `dtype` or each of its own, in the place of parameters."""
    for name, p in list(net.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        fake = torch.nn.Parameter(torch.empty(p.shape, dtype=dtype or p.dtype), requires_grad=p.requires_grad)
        setattr(net.get_submodule(owner), leaf, fake)


def _drop(p: torch.Tensor) -> None:
    p.grad = None


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _step_bytes(name: str, optimizer) -> int:
    """What a step makes on the way: AdamW's kernel nothing, others copies of what they handle at a time."""
    groups = [[_bytes(p) for p in group["params"]] for group in optimizer.param_groups]
    largest = max(max(group) for group in groups)
    hidden = [
        _bytes(p) for group in optimizer.param_groups if group["rule"] == "muon" for p in group["params"]
    ]
    return {
        "lion": max(map(sum, groups)),
        "adamw_rms": 2 * largest,
        "adafactor": largest,
        "muon": 7 * max(hidden, default=0),
    }.get(name, 0)
