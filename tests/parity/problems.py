"""Small problems with which an engine is compared with plain torch: nets, objective and micro-batches of
every kind.

The objectives of llmkit run on a two-layer decoder; those of made.py have what these have not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from llmkit import registry
from llmkit.data.sets.prompts import Prompt
from llmkit.engine import adapt
from llmkit.engine.recipe import Optim
from llmkit.models.adapter import Adapter
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder
from llmkit.models.encdec import EncDec
from llmkit.models.encoder import Encoder
from llmkit.models.heads import with_head
from llmkit.objectives.phase import Batch, Objective, keyed
from llmkit.vision.captioner import Captioner
from tests.parity.made import (
    SEED,
    Gan,
    Made,
    PenalisedGan,
    Rollouts,
    TwoDenominators,
    empty,
    images,
    mlp,
    states,
    two_denominators,
)  # fmt: skip

ROWS, LENGTH, VOCABULARY, LABELS = 2, 12, 29, 5


@dataclass(frozen=True)
class Problem:
    """What both sides are given. `batch(step, draw, slot)`: one micro-batch, the same whoever runs it."""

    objective: Callable[[], Objective]
    nets: Callable[[Objective], dict[str, nn.Module]]
    batch: Callable[[int, int, int], Batch]
    denominator: str
    """The count that a planted fault doubles."""
    optim: Optim


# ---- the objectives of llmkit, on packed rows --------------------------------------------------------------


def decoder(head: str = "lm", net: str = "", outputs: int | None = None, **changes) -> nn.Module:
    """Two layers, width 16, vocabulary 29; on the meta device, as a run builds it."""
    shape = {"width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": VOCABULARY, "context": LENGTH}
    with torch.device("meta"):
        return with_head(Decoder(Decoder.Settings(**{**shape, **changes})), head, outputs)


def taught(head: str = "lm", net: str = "", **changes) -> nn.Module:
    """`decoder`; a net called teacher is wider inside, and surer of what it says."""
    other = {"mlp_dim": 40, "init_std": 0.5} if net == "teacher" else {}
    return decoder(head, net, **other, **changes)


def packed(step: int, draw: int, slot: int) -> Batch:
    """Rows of two segments and padding, with an uneven number of labels; slot 1 of odd steps has none."""
    generator = keyed("packed", step, draw, slot)
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)
    cut = int(torch.randint(2, 5, (), generator=generator))
    segments = torch.ones(ROWS, LENGTH, dtype=torch.int32)
    segments[:, cut:] = 2
    segments[0, cut + 3 :] = 0
    labels = torch.where(torch.rand(ROWS, LENGTH, generator=generator) < 0.3, -100, tokens.roll(-1, 1))
    if empty(step, slot):
        segments, labels = torch.zeros_like(segments), torch.full_like(labels, -100)
    labels = torch.where(segments > 0, labels, -100)
    return {"tokens": tokens, "segments": segments, "labels": labels, "bytes": (labels >= 0).sum(1) * 3}


def encoder(head: str = "lm", outputs: int | None = None) -> nn.Module:
    """ModernBERT's architecture, small enough that its window is narrower than a document."""
    shape = {"style": "modernbert", "width": 16, "layers": 2, "heads": 2, "window": 2, "context": LENGTH}
    with torch.device("meta"):
        net = Encoder(Encoder.Settings(**shape, global_every=2, vocab_size=VOCABULARY))
        return with_head(net, head, outputs)


def labelled(step: int, draw: int, slot: int) -> Batch:
    """The two segments of `packed` rows as texts of five kinds; padding cuts one, a row may have none."""
    batch, generator = packed(step, draw, slot), keyed("labelled", step, draw, slot)
    inside = [batch["segments"] == number for number in (1, 2)]
    starts = torch.stack([mask.int().argmax(1) for mask in inside], -1)
    ends = torch.stack([mask.int().cumsum(1).argmax(1) for mask in inside], -1)
    valid = torch.stack([mask.any(1) for mask in inside], -1)
    label = torch.randint(LABELS, valid.shape, generator=generator)
    return {**batch, "starts": starts, "ends": ends, "valid": valid, "label": label}


def tagged(step: int, draw: int, slot: int) -> Batch:
    """`packed` rows whose labels are tags of five kinds."""
    batch = packed(step, draw, slot)
    return {**batch, "labels": torch.where(batch["labels"] >= 0, batch["labels"] % LABELS, -100)}


def asked(step: int, draw: int, slot: int) -> Batch:
    """The two segments of `packed` rows as questions whose passages are all of them but the first token."""
    batch, generator = labelled(step, draw, slot), keyed("asked", step, draw, slot)
    starts, length = batch["starts"], batch["ends"] - batch["starts"]
    drawn = torch.rand(*starts.shape, 2, generator=generator)
    answer = starts[..., None] + 1 + (drawn * length[..., None]).long()
    return {
        **batch,
        "passage": (batch["segments"] > 0).scatter(1, starts, False),
        "answer": answer.sort(-1).values,
        "valid": batch["valid"] & (length > 0),
    }


def encdec() -> nn.Module:
    """T5's architecture, with a decoder of one layer."""
    shape = {"style": "t5", "width": 16, "layers": 2, "decoder_layers": 1, "heads": 2, "context": LENGTH}
    with torch.device("meta"):
        return EncDec(EncDec.Settings(**shape, vocab_size=VOCABULARY))


def sources(step: int, draw: int, slot: int) -> Batch:
    """`packed` rows with an encoder's side, shorter and cut elsewhere; segment i belongs to segment i."""
    batch, generator = packed(step, draw, slot), keyed("sources", step, draw, slot)
    segments = torch.ones(ROWS, LENGTH - 3, dtype=torch.int32)
    segments[:, int(torch.randint(3, 6, (), generator=generator)) :] = 2
    if empty(step, slot):
        segments = torch.zeros_like(segments)
    return {
        **batch,
        "source": torch.randint(VOCABULARY, segments.shape, generator=generator),
        "source_segments": segments,
        "spans": torch.zeros_like(batch["tokens"]),
    }


def captioner() -> nn.Module:
    """A captioner of grey images of four patches, with a decoder of one layer."""
    shape = {"width": 16, "layers": 2, "decoder_layers": 1, "heads": 2, "size": 8, "channels": 1}
    with torch.device("meta"):
        return Captioner(Captioner.Settings(**shape, context=LENGTH, vocab_size=VOCABULARY))


def captioned(step: int, draw: int, slot: int) -> Batch:
    """Captions of uneven lengths, one in a row, and an image for each."""
    batch, generator = packed(step, draw, slot), keyed("captioned", step, draw, slot)
    segments = (batch["segments"] == 1).int()
    return {
        **batch,
        "segments": segments,
        "labels": torch.where(segments > 0, batch["labels"], -100),
        "source": torch.randint(256, (ROWS, 1, 8, 8), generator=generator, dtype=torch.uint8),
    }


def pairs(step: int, draw: int, slot: int) -> Batch:
    """One pair a row, chosen in segment 1, rejected in segment 2, with the keys that reward and dpo read."""
    batch = packed(step, draw, slot)
    ends = torch.stack([(batch["segments"] == side).int().cumsum(1).argmax(1) for side in (1, 2)], -1)
    margin = torch.rand(ROWS, 1, generator=keyed("margin", step, draw, slot))
    valid = torch.full((ROWS, 1), not empty(step, slot))
    return {**batch, "ends": ends[:, None], "valid": valid, "margin": margin}


def rated(step: int, draw: int, slot: int) -> Batch:
    """Two examples a row, good and bad in turn, and the same shape of lent replies, for kto."""
    batch, lent = packed(step, draw, slot), packed(step, draw + 99, slot)
    valid = torch.full((ROWS, 2), not empty(step, slot))
    desirable = torch.tensor([[True, False]] * ROWS)
    return {
        **batch,
        **{f"lent_{key}": lent[key] for key in ("tokens", "segments", "labels")},
        "valid": valid,
        "desirable": desirable,
    }


def prompts(step: int, draw: int, slot: int) -> Batch:
    """Two prompts of two to four tokens, or none; a reply ends with token 2 or 3."""
    generator = keyed("prompts", step, draw, slot)
    asked = []
    for row in range(0 if empty(step, slot) else ROWS):
        ids = torch.randint(4, VOCABULARY, (2 + (row + slot) % 3,), generator=generator).tolist()
        asked.append(Prompt(ids, {"messages": []}, f"{step}/{draw}/{slot}/{row}"))
    return {"prompts": asked, "tokenizer": Letters, "stop": [2, 3], "pad": 0, "prompt_len": 4}


class Letters:
    """What stands in for a tokenizer where nobody reads the replies."""

    decode = staticmethod(str)


def ours(name: str, batch, denominator: str, net=decoder, **settings) -> Problem:
    """The registered objective `name` on what `net` makes: decoders, unless something else is said."""
    cls = registry.find("objective", name)
    return Problem(
        lambda: cls(cls.Settings(**settings)),
        lambda objective: objective.build(net),
        batch,
        denominator,
        Optim(lr=1e-3, eps=1e-5, clip=0.0),
    )


def with_adapter(problem: Problem, **settings) -> Problem:
    """`problem` with an adapter on what it trains, and no reference but that net without it."""

    def nets(objective):
        return adapt.put_on(problem.nets(objective), objective, Adapter(rank=3, **settings))

    return replace(problem, nets=nets)


# ---- the objectives made for this --------------------------------------------------------------------------


def made(cls: type[Made], batch, denominator: str, nets: dict[str, tuple], **optim: Any) -> Problem:
    settings = Optim(lr=1e-3, eps=1e-5, **{"clip": 0.5, **optim})
    return Problem(
        cls, lambda objective: {k: mlp(k[:6], *w) for k, w in nets.items()}, batch, denominator, settings
    )


GAN_NETS = {"g": (5, 17, 6), "d": (6, 17, 1)}

PROBLEMS = {
    "causal": ours("causal", packed, "tokens"),
    "experts": replace(
        ours("causal", packed, "real", balance=0.5, router_z=0.5),
        nets=lambda objective: objective.build(partial(decoder, experts=3, mlp_dim=16)),
    ),
    "sft": ours("sft", packed, "tokens"),
    "distill": ours("distill", packed, "tokens", taught, teacher="its own net", top_k=3, nll=0.1),
    "gkd": ours(
        "distill", prompts, "tokens", taught, teacher="its own net", replies="student", beta=0.5, max_new=6
    ),
    "masked": ours("masked", packed, "tokens", encoder),
    "denoise": ours("denoise", sources, "tokens", encdec),
    "classify": ours("classify", labelled, "texts", labels=list("abcde")),
    "tag": ours("tag", tagged, "tokens", encoder, labels=list("abcde")),
    "span": replace(  # a bias of all logits changes nothing: with a small eps its rounding would become steps
        ours("span", asked, "questions", encoder), optim=Optim(lr=1e-3, eps=1e-4, clip=0.0)
    ),
    "seq2seq": ours("seq2seq", sources, "tokens", encdec, label_smoothing=0.1),
    "caption": ours("caption", captioned, "tokens", captioner, label_smoothing=0.1),
    "reward": ours("reward", pairs, "pairs", margin=0.5, centering=0.01),
    "dpo": ours("dpo", pairs, "pairs", sft_weight=0.2),
    "simpo": ours("simpo", pairs, "pairs"),
    "cpo": ours("cpo", pairs, "pairs", label_smoothing=0.1),
    "orpo": ours("orpo", pairs, "text_tokens"),
    "kto": ours("kto", rated, "examples", beta=1.0),
    "grpo": ours(
        "grpo",
        prompts,
        "replies",
        samples=3,
        max_new=6,
        reward_model="its own net",
        loss="grpo",
        kl=0.1,
        minibatches=2,
        epochs=2,
        missing_eos_penalty=0.5,
    ),
    "ppo": ours(
        "ppo",
        prompts,
        "tokens",
        samples=2,
        max_new=6,
        reward_model="its own net",
        minibatches=2,
        epochs=2,
        kl_target=0.1,
        kl_horizon=100,
    ),
    "ppo_shared": ours(
        "ppo",
        prompts,
        "tokens",
        samples=2,
        max_new=6,
        reward_model="its own net",
        value="shared",
        epochs=2,
    ),
    "two_denominators": made(TwoDenominators, two_denominators, "pairs", {"policy": (6, 16, 9)}),
    "penalised_gan": made(PenalisedGan, images, "images", GAN_NETS, ema=0.9),
    "clamped_gan": made(Gan, images, "images", GAN_NETS, ema=0.9, clamp=0.3),
    "rollouts": made(
        Rollouts, states, "tokens", {"policy": (6, 16, 5), "value": (6, 16, 1), "reference": (6, 16, 5)}
    ),
}


shallow = partial(decoder, layers=1)
ADAPTED = {
    "dpo_lora": with_adapter(ours("dpo", pairs, "pairs", shallow, sft_weight=0.2)),
    "reward_dora": with_adapter(
        ours("reward", pairs, "pairs", shallow), kind="dora", rslora=True, targets="attention"
    ),
    "tag_lora": with_adapter(ours("tag", tagged, "tokens", encoder, labels=list("abcde"))),
    "seq2seq_lora": with_adapter(ours("seq2seq", sources, "tokens", encdec)),
}
"""Problems with an adapter, which have a test of their own: at ZeRO-3 they take longer than all others."""


def build(problem: Problem) -> tuple[Objective, dict[str, nn.Module]]:
    """The objective and its nets with their initial weights, on the CPU, whole."""
    objective = problem.objective()
    nets = problem.nets(objective)
    return objective, {
        name: initialise(net, SEED) if any(p.is_meta for p in net.parameters()) else net
        for name, net in nets.items()
    }


def group(problem: Problem, objective: Objective, step: int, slots: list[int]) -> list[Batch]:
    """The micro-batches of `step` in `slots`, for every draw."""
    return [problem.batch(step, draw, slot) for draw in range(objective.draws) for slot in slots]
