"""What a rank holds at the peak of a step, by part: what was traced, and what the backend keeps beside it.

    device:  weights, optimizer, buffers | the larger of backward and step: gradients, logits, activations
    host:    what ZeRO offloads

Read in the source of torch's DDP and of DeepSpeed 0.19, in bytes; nothing is fitted. bench/planner_error.py
compares with bytes counted in real runs.
"""

from dataclasses import dataclass

from llmkit.engine import zero_config


@dataclass(frozen=True)
class Layout:
    """How a step is computed; the global batch is not part of it."""

    backend: str
    world: int
    micro_rows: int
    accumulate: int
    recompute: str | None = None
    offload: str = "none"

    def __str__(self) -> str:
        recompute = f", recompute {self.recompute}" if self.recompute else ""
        offload = f", offload {self.offload}" if self.offload != "none" else ""
        return f"{self.backend}, {self.micro_rows} rows x {self.accumulate} micro-batches{recompute}{offload}"


@dataclass(frozen=True)
class Net:
    """One micro-batch of the phase that holds most for a trained net: bytes beyond what is always there."""

    numel: int
    """Parameters that are trained."""
    trained: int
    """Bytes of them as they are computed with: 4 or, under bf16 weights, 2 each."""
    borrowed: int
    """Bytes of the net's other weights, which an adapter leaves alone; ZeRO-3 splits them too."""
    moments: int
    """Bytes of the optimiser's state, whole."""
    first: int
    """Peak of a micro-batch, with the gradients that it makes."""
    later: int
    """Peak of one that finds gradients already there."""
    bare: int
    """Peak of one whose gradients are gone at once: activations alone."""
    logits: int
    largest: int
    """Elements of the largest parameter."""
    step: int
    """What the optimiser's step makes on the way."""

    @property
    def weights(self) -> int:
        """Bytes of the whole net."""
        return self.trained + self.borrowed

    @property
    def half(self) -> bool:
        """Whether weights are bf16, and their fp32 masters stand beside them."""
        return self.trained < 4 * self.numel


@dataclass(frozen=True)
class Traced:
    """What a run computes with and what a micro-batch takes."""

    nets: tuple[Net, ...]
    """Those that are trained."""
    frozen: int
    """Bytes of the others, which are whole on every rank."""
    flops: float
    """Of a micro-batch in all phases of a step."""


@dataclass
class Held:
    """Bytes of one rank for one net: kept all the time, on device and host, and at both peaks of a step."""

    weights: float
    optimizer: float = 0.0
    buffers: float = 0.0
    host: float = 0.0
    bucket: float = 0.0
    """There while the net is trained."""
    backward: float = 0.0
    step: float = 0.0
    gradients: float = 0.0
    """Of the peak, what is gradients."""

    @property
    def peak(self) -> float:
        """Bytes beyond what is kept, which the nets of a run hold in turn."""
        return self.bucket + max(self.backward, self.step)


def memory(traced: Traced, layout: Layout) -> dict[str, int]:
    """Bytes of a rank at the peak of a step, by part; `total` is the device's, `host` is beside it."""
    hold = {"ddp": _ddp, "zero1": _zero1, "zero2": _zero2, "zero3": _zero3}[layout.backend]
    every = [hold(net, layout) for net in traced.nets]
    net, held = max(zip(traced.nets, every, strict=True), key=lambda pair: pair[1].peak)
    peak = held.peak - held.bucket
    gradients = min(held.gradients, peak)
    logits = min(net.logits, max(0, peak - gradients))
    parts = {
        "weights": traced.frozen + sum(each.weights for each in every),
        "optimizer": sum(each.optimizer for each in every),
        "buffers": held.bucket + sum(each.buffers for each in every),
        "gradients": gradients, "logits": logits, "activations": max(0, peak - gradients - logits),
    }  # fmt: skip
    found = {name: int(value) for name, value in parts.items()}
    return found | {"total": sum(found.values()), "host": int(sum(each.host for each in every))}


def _ddp(t: Net, layout: Layout) -> Held:
    n = 4 * t.numel
    return Held(
        weights=t.weights,
        optimizer=t.moments,
        buffers=n if layout.world > 1 else 0,  # DDP's own copy of the gradients
        backward=t.later if layout.accumulate > 1 else t.first,
        step=n + t.step,
        gradients=n,
    )


def _zero1(t: Net, layout: Layout) -> Held:
    """All gradients stay on every rank until the step."""
    n, share = 4 * t.numel, 1 / layout.world
    bucket, state = _bucket(n), (n + t.moments) * share
    held = Held(t.weights, state, bucket=bucket, gradients=n)
    held.backward = t.later if layout.accumulate > 1 else t.first
    held.step = n + max(0.0, n * share - bucket) + t.step * share
    if t.half and layout.offload == "none":  # BF16_Optimizer: fp32 gradients whole, beside those in bf16
        held.bucket, held.gradients = 0, n + t.trained
        held.backward += n
        held.step = n + t.trained + bucket + t.step * share
    elif t.half:  # gradients are added up in fp32 as they come
        held.backward = n + max(t.bare, 4 * t.largest)
        held.step = n + n * share
    if layout.offload != "none":
        _to_host(held, t, share)
        held.step = n + (n * share if t.half else 0)
    return held


def _zero2(t: Net, layout: Layout) -> Held:
    """Each rank keeps its share of the gradients; the others are gone as soon as a bucket is reduced."""
    n, share, several = 4 * t.numel, 1 / layout.world, layout.accumulate > 1
    bucket, offload = _bucket(n), layout.offload != "none"
    held = Held(t.weights, (n + t.moments) * share, bucket=bucket)
    if offload:
        _to_host(held, t, share)
    stepping = 0.0 if offload else t.step * share
    if t.half:  # a bucket lies in bf16, and travels in fp32; the share of the gradients is fp32
        held.bucket -= bucket / 2
        old, new = (n * share, 0.0) if several else (0.0, n * share)
        flush = bucket / 2 + bucket + new
        held.step = n * share + 8 * t.largest + stepping
    elif offload:  # the share of the gradients is added up on the host
        old, new, flush = 0.0, 0.0, bucket
        held.host += n * share
        held.step = 12 * t.largest
    else:
        old, new = (n * share if several else 0.0), n * share * (1 - bucket / n)
        flush = bucket + new
        held.step = max(0.0, 2 * n * share - bucket) + stepping
    held.backward = old + (max(t.bare, flush) if bucket == n else flush + t.bare)
    held.gradients = old + new
    return held


def _zero3(t: Net, layout: Layout) -> Held:
    """Weights are split too, and gathered while a layer needs them."""
    n, share, whole = 4 * t.numel, 1 / layout.world, t.weights
    size = 4 if not t.half else 2
    bucket = _bucket(4 * whole // size)
    held = Held(whole * share, (n + t.moments + n) * share, bucket)
    gathered = min(whole, size * 10**9)
    waiting = min(t.trained, bucket / 2) if t.half else 0  # gradients in bf16, until their bucket is reduced
    flush = bucket + 4 * t.largest
    if bucket == 4 * whole // size:
        held.backward = gathered + max(t.first if t.half else t.bare, waiting + flush)
    else:
        held.backward = gathered + waiting + flush + t.bare
    held.step = n * share + t.step * share
    if layout.offload != "none":  # masters, moments, gradients, and gradients once more for the step
        held.host, held.optimizer = held.optimizer + (n + t.step) * share, 0.0
        held.step = 4 * t.largest
    if layout.offload == "params":
        held.host += whole * share
        held.weights -= whole * share
    return held


def _bucket(n: float) -> float:
    return min(4 * zero_config.MAX_BUCKET, n)


def _to_host(held: Held, t: Net, share: float) -> None:
    """Stages 1 and 2: masters, moments, gradients of the masters, updated weights on their way back."""
    n, largest = 4 * t.numel, t.largest * t.trained / t.numel
    held.host = (n + t.moments + n + t.trained + t.step) * share + largest
    held.optimizer = 0.0
    held.buffers += largest
