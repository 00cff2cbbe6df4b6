"""What a run will need, before it starts: the run's own nets and loss, traced on tensors that hold no memory.

    recipe ─► nets and one micro-batch as fake tensors ─► forward, backward: bytes alive, FLOPs  (trace.py)
           ─► what the backend keeps beside them: masters, moments, buckets                   (memory.py)
           ─► largest of: backward, optimiser step

Nothing is fitted: activations are counted operator by operator, what DeepSpeed allocates was read in its
source. Not seen: kernels' workspaces, the allocator's fragmentation, torch.compile's savings.
bench/planner_error.py compares with bytes counted in real runs.
"""

from dataclasses import replace
from typing import Any, Literal

import torch

from llmkit import registry
from llmkit.engine.memory import Layout, Traced, memory
from llmkit.engine.recipe import TrainRecipe
from llmkit.engine.trace import trace
from llmkit.errors import ConfigError, LlmkitError
from llmkit.models import adapter, size
from llmkit.models.crossentropy import IGNORED

DEVICES = {
    "h200": ("NVIDIA H200", 140e9),
    "h100": ("NVIDIA H100 80GB HBM3", 79e9),
    "a100": ("NVIDIA A100-SXM4-80GB", 79e9),
    "a100-40": ("NVIDIA A100-SXM4-40GB", 39e9),
    "b200": ("NVIDIA B200", 178e9),
    "mi300x": ("AMD Instinct MI300X", 191e9),
    "l40s": ("NVIDIA L40S", 44e9),
    "l4": ("NVIDIA L4", 22e9),
    "4090": ("NVIDIA GeForce RTX 4090", 23e9),
}
"""Short name -> (torch's name of the device, bytes that a process can have of it)."""

FILL = 0.9
"""Share of a device that a proposal may fill: the rest is for workspaces and fragmentation."""


def complete(recipe: TrainRecipe) -> tuple[TrainRecipe, Any]:
    """The recipe with what only the data can tell, and the data set; without data, made-up rows of tokens."""
    if recipe.model is None:
        recipe = recipe.model_copy(update={"model": _model_of(recipe.init)})
    if recipe.adapter:
        adapter.check(recipe.adapter, recipe.model)
    try:
        from llmkit.engine.run import resolved

        dataset = registry.find("dataset", recipe.data.name)(recipe.data, "train", recipe.run.seed)
        return resolved(recipe, dataset), dataset
    except (LlmkitError, OSError):
        if getattr(recipe.model, "vocab_size", 0) is None:
            raise ConfigError(
                "model.vocab_size: is the tokenizer's, and the data is not there; give model.vocab_size=N"
            ) from None
        if not hasattr(recipe.data, "seq_len") or recipe.objective.name not in MADE_UP:
            raise ConfigError(
                f"data: is not there, and rows for {recipe.objective.name} cannot be made up; make it first"
            ) from None
        if recipe.run.steps is None:
            per_step = recipe.batch.rows * recipe.data.seq_len
            run = recipe.run.model_copy(update={"steps": -(-recipe.run.tokens // per_step)})
            recipe = recipe.model_copy(update={"run": run})
        return recipe, None


def _model_of(init: str | None):
    """The net that a run without a model section starts from. ConfigError if it is not there."""
    from llmkit.engine.start import Start

    try:
        return Start(str(init)).model
    except LlmkitError:
        raise ConfigError(
            f"model: a plan needs the model section, or `init` in its place, and {init} is not there; "
            "make it, or write the model out"
        ) from None


def rows(recipe: TrainRecipe, dataset, count: int) -> dict[str, Any]:
    """A micro-batch of `count` rows: the data set's, or made up: full, with all the labels there may be.

    ConfigError for prompts: what their replies are is known when they have been drawn.
    """
    data, name = recipe.data, recipe.objective.name
    if dataset is not None:
        batch = dataset.batch([(i, i % len(dataset)) for i in range(count)])
        if "prompts" in batch:
            raise ConfigError(f"objective.name: {name} draws its rows as it runs, which cannot be planned")
        return batch
    tokens = torch.zeros(count, getattr(data, "target_len", None) or data.seq_len, dtype=torch.int64)
    labels = tokens.clone()
    if name == "masked":
        labels[:, round(data.noise.rate * data.seq_len) :] = IGNORED
    made = {"tokens": tokens, "segments": torch.ones_like(tokens, dtype=torch.int32), "labels": labels}
    if name in ("denoise", "seq2seq"):
        source = torch.zeros(count, data.seq_len, dtype=torch.int64)
        made |= {"source": source, "source_segments": torch.ones_like(source, dtype=torch.int32)}
        made["spans"] = torch.zeros_like(tokens)
    return made


MADE_UP = ("causal", "masked", "denoise", "sft", "seq2seq", "distill")
"""Objectives whose rows are tokens and labels, and sources."""


def predict(recipe: TrainRecipe, dataset, layout: Layout, bf16: bool) -> tuple[dict[str, int], Traced]:
    """Memory by part of a rank, and what was traced."""
    if layout.backend == "ddp":  # it knows fp32 weights alone
        parallel = recipe.parallel.model_copy(update={"weights": "fp32"})
        recipe = recipe.model_copy(update={"parallel": parallel})
    if layout.recompute:
        model = recipe.model.model_copy(update={"recompute": layout.recompute})
        recipe = recipe.model_copy(update={"model": model})
    traced = trace(recipe, rows(recipe, dataset, layout.micro_rows), bf16)
    return memory(traced, layout), traced


def layouts(recipe: TrainRecipe, world: int) -> list[Layout]:
    """What could be run, what is fastest first: no recomputation, few cuts, large micro-batches."""
    backend, offload = recipe.parallel.backend, recipe.parallel.offload
    stages = ["ddp", "zero1", "zero2", "zero3"] if backend == "auto" else [backend]
    if backend == "auto" and (offload != "none" or recipe.parallel.weights == "bf16"):
        stages = ["zero3"] if offload == "params" else stages[1:]  # what has an effect
    elif backend == "auto" and world == 1:
        stages = ["ddp"]
    levels = ["none", "selective", "full"] if hasattr(recipe.model, "recompute") else [None]
    each = -(-recipe.batch.rows // world)
    sizes = sorted({-(-each // cut) for cut in (1, 2, 4, 8, 16, 32, 64) if cut <= each}, reverse=True)
    if recipe.batch.micro_rows:
        sizes = [recipe.batch.micro_rows]
    return [
        Layout(stage, world, micro, -(-each // micro), level, "none" if stage == "ddp" else offload)
        for level in levels
        for stage in stages
        for micro in sizes
    ]


def plan(recipe: TrainRecipe, device: str, world: int, efficiency: float, price: float) -> dict[str, Any]:
    """Everything that `llmkit plan` shows, as plain data. `price` is per device and hour; 0: unknown."""
    if device not in DEVICES:
        raise ConfigError(f"--device {device}: is one of {', '.join(DEVICES)}")
    name, capacity = DEVICES[device]
    recipe, dataset = complete(recipe)
    bf16 = recipe.parallel.precision != "fp32"
    layout, parts, traced = _choose(recipe, dataset, world, bf16, FILL * capacity)
    kind = _products(recipe.parallel, traced)
    flops = traced.flops * layout.accumulate
    seconds = flops / (size.peak_flops(name, kind) * efficiency)
    hours = seconds * recipe.run.steps / 3600
    return {
        "device": name,
        "world": world,
        "parameters": sum(net.numel for net in traced.nets),
        "step_flops": flops * world,
        "layout": str(layout),
        "set": {
            "parallel.backend": layout.backend,
            "batch.micro_rows": layout.micro_rows,
            **({"model.recompute": layout.recompute} if layout.recompute else {}),
            **({"parallel.offload": layout.offload} if layout.offload != "none" else {}),
            **({"parallel.weights": "bf16"} if traced.nets[0].half else {}),
        },
        "fits": parts["total"] <= FILL * capacity,
        "capacity_bytes": int(capacity),
        "memory_bytes": parts,
        "products": kind,
        "efficiency": efficiency,
        "step_s": seconds,
        "steps": recipe.run.steps,
        "hours": hours,
        "device_hours": hours * world,
        "cost": hours * world * price if price else None,
    }


def _products(parallel, traced: Traced) -> Literal["bf16", "tf32", "fp32"]:
    """What matrix products are computed in, which decides the peak rate; `auto` is bf16 on all DEVICES."""
    if traced.nets[0].half or parallel.precision != "fp32":
        return "bf16"
    return "tf32" if parallel.tf32 else "fp32"


def _choose(recipe, dataset, world, bf16, most) -> tuple[Layout, dict[str, int], Traced]:
    """The first layout below `most` bytes, or the last.

    The first and the last are traced; of the others, those that two small traces say will fit.
    """
    layout, *others = layouts(recipe, world)
    parts, traced = predict(recipe, dataset, layout, bf16)
    few: dict[str | None, tuple[Traced, Traced]] = {}
    while parts["total"] > most and others:
        layout = others.pop(0)
        if layout.recompute not in few:
            one, two = (predict(recipe, dataset, replace(layout, micro_rows=n), bf16)[1] for n in (1, 2))
            few[layout.recompute] = one, two
        guess = memory(_stretched(*few[layout.recompute], layout.micro_rows), layout)["total"]
        if guess <= most or not others:
            parts, traced = predict(recipe, dataset, layout, bf16)
    return layout, parts, traced


def _stretched(one: Traced, two: Traced, rows: int) -> Traced:
    """What `rows` rows would take, if every further one takes what the second does."""

    def line(a: float, b: float):
        return a + (rows - 1) * (b - a)

    names = ("first", "later", "bare", "logits")
    nets = tuple(
        replace(a, **{name: line(getattr(a, name), getattr(b, name)) for name in names})
        for a, b in zip(one.nets, two.nets, strict=True)
    )
    return replace(one, nets=nets, flops=line(one.flops, two.flops))


LAUNCHES_S = 0.02
"""Below so many seconds a step, an accelerator waits for its host to launch kernels."""


def table(facts: dict[str, Any]) -> str:
    """A plan for people."""
    parts = {part: _bytes_text(value) for part, value in facts["memory_bytes"].items() if value}
    parts["total"] += f" of {_bytes_text(facts['capacity_bytes']).strip()} a device"
    width = max(map(len, parts))
    cost = f"; at the price given: {facts['cost']:,.2f}" if facts["cost"] is not None else ""
    fits = "fits" if facts["fits"] else "DOES NOT FIT: use more devices, a shorter row or a smaller model"
    each, all_ = _time_text(facts["step_s"]), _time_text(facts["hours"] * 3600)
    small = facts["step_s"] < LAUNCHES_S
    return "\n".join(
        [
            f"{facts['parameters'] / 1e6:,.1f} M parameters, {facts['step_flops']:.3g} FLOPs a step",
            f"{facts['world']} x {facts['device']}: {facts['layout']}: {fits}",
            *(f"  {part:{width}} {text}" for part, text in parts.items()),
            f"{each} a step at {facts['efficiency']:.0%} of the peak {facts['products']} rate (assumed), no "
            f"communication counted; {facts['steps']:,} steps: {all_}, "
            f"{facts['device_hours']:.3g} device hours{cost}",
            *(["so small a step is bound by launching kernels: expect it to take longer"] if small else []),
            "set: " + " ".join(f"{key}={value}" for key, value in facts["set"].items()),
        ]
    )


def _bytes_text(n: int) -> str:
    return f"{n / 2**30:8.2f} GiB" if n >= 2**30 else f"{n / 2**20:8.2f} MiB"


def _time_text(seconds: float) -> str:
    for unit, length, most in (("ms", 1e-3, 1), ("s", 1, 120), ("min", 60, 7200), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86400:,.1f} days"


def compared(recipe: TrainRecipe, backend: str, world: int, bf16: bool, measured: int) -> str:
    """One line that sets a measured peak beside the plan's."""
    micro = recipe.batch.micro_rows or -(-recipe.batch.rows // world)
    offload = "none" if backend == "ddp" else recipe.parallel.offload
    layout = Layout(backend, world, micro, -(-recipe.batch.rows // (world * micro)), offload=offload)
    found, dataset = complete(recipe)
    planned = predict(found, dataset, layout, bf16)[0]["total"]
    off = planned / measured - 1
    return f"memory: {measured / 2**30:.2f} GiB at the peak, {planned / 2**30:.2f} planned ({off:+.1%})"
