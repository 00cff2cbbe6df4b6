"""Replies drawn from the policy, laid out as training rows.

    prompt ─► `samples` replies each ─► tokens    p p p r r r e . .      (B, T), B = prompts x samples
                                        segments  1 1 1 1 1 1 1 0 0
                                        labels    - - r r r e - - -      the next token, where it was drawn

Replies are drawn at temperature 1 from the whole distribution, so the log-probabilities that the loss
computes are those of the sampler. Each has a random stream of its own, keyed by (run seed, prompt, how often
it came up, number of the reply): neither ranks nor micro-batches change what is said.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from llmkit.errors import ConfigError
from llmkit.models.blocks import SHORT
from llmkit.models.crossentropy import IGNORED
from llmkit.models.generate import generate
from llmkit.objectives.phase import Batch

ROUND = 4
"""Rows are padded to a multiple of this, so that few shapes occur."""


class Said(NamedTuple):
    """One reply: its token ids, the end marker included if it came to an end, and its text."""

    ids: list[int]
    text: str
    ended: bool
    record: dict[str, Any]


def draw(net, batch: Batch, samples: int, max_new: int) -> tuple[list[Said], Batch]:
    """Replies to the prompts of `batch`, prompt by prompt, and the training rows that they make.

    The rows carry `valid`, `ended`, `length`, `repeated`, each (B,). No prompts: `samples` rows of padding.
    ConfigError if the longest that may come does not fit into the net's context.
    """
    context, longest = getattr(net.settings, "context", None), batch["prompt_len"] + max_new
    if context and longest > context:
        raise ConfigError(
            f"objective.max_new: {max_new} new tokens after data.prompt_len={batch['prompt_len']} are more "
            f"than model.context={context}; lower one of them"
        )
    asked = [prompt for prompt in batch["prompts"] for _ in range(samples)]
    keys = [f"{prompt.key}/{i}" for prompt in batch["prompts"] for i in range(samples)]
    device = next(net.parameters()).device
    said: list[Said] = []
    if asked:
        prompts = [prompt.ids for prompt in asked]
        options = {"temperature": 1.0, "stop": batch["stop"], "keep_stop": True, "keys": keys}
        drawn = generate(net, prompts, max_new, **options)
        stop = set(batch["stop"])
        for prompt, ids in zip(asked, drawn, strict=True):
            ended = bool(ids) and ids[-1] in stop
            text = batch["tokenizer"].decode(ids[:-1] if ended else ids)
            said.append(Said(ids, text, ended, prompt.record))
    rows = [(prompt.ids, reply.ids) for prompt, reply in zip(asked, said, strict=True)]
    laid = lay(rows or [([], [])] * samples, batch["pad"])
    if said and samples > 1 and getattr(net, "branches", False):
        laid |= branched(rows, samples, laid["tokens"].shape, batch["pad"])
    facts = {
        "valid": [True] * len(said),
        "ended": [reply.ended for reply in said],
        "length": [float(len(reply.ids)) for reply in said],
        "repeated": [repeated(reply.ids) for reply in said],
    }
    empty = {"valid": False, "ended": False, "length": 0.0, "repeated": 0.0}
    columns = {key: torch.tensor(value or [empty[key]] * samples) for key, value in facts.items()}
    return said, {key: value.to(device) for key, value in (laid | columns).items()}


def lay(rows: list[tuple[list[int], list[int]]], pad: int) -> dict[str, Tensor]:
    """(prompt, reply) token ids -> tokens, segments, labels, padded on the right to a common length."""
    longest = max(len(prompt) + len(reply) for prompt, reply in rows)
    size = (len(rows), max(ROUND, -(-longest // ROUND) * ROUND))
    tokens = torch.full(size, pad, dtype=torch.int64)
    segments = torch.zeros(size, dtype=torch.int32)
    labels = torch.full(size, IGNORED, dtype=torch.int64)
    for row, (prompt, reply) in enumerate(rows):
        ids = prompt + reply
        tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        segments[row, : len(ids)] = 1
        if reply:
            labels[row, len(prompt) - 1 : len(ids) - 1] = torch.tensor(reply)
    return {"tokens": tokens, "segments": segments, "labels": labels}


def branched(
    rows: list[tuple[list[int], list[int]]], samples: int, size: tuple[int, ...], pad: int
) -> dict[str, Tensor]:
    """The rows of `lay` again, with every prompt but once: its replies branch off it. {} if that is too long.

        tokens    p p p r r r p r r . .      the prompt but for its last token; that token and each reply
        segments  1 1 2 2 2 2 3 3 3 0 0
        stems     0 0 1 1 1 1 1 1 1 0 0      (Decoder.nll)

    All named `branched_*`, (prompts, R). `places` (B, T): where the prediction of a reply's token stands in
    the flattened rows, and one past their end where no reply's token is predicted.
    """
    groups = [rows[i : i + samples] for i in range(0, len(rows), samples)]
    longest = max(len(group[0][0]) - 1 + sum(len(reply) for _, reply in group) for group in groups)
    width = -(-longest // (2 * ROUND)) * 2 * ROUND
    if width > SHORT:
        return {}
    tokens = torch.full((len(groups), width), pad, dtype=torch.int64)
    segments, stems = (torch.zeros(len(groups), width, dtype=torch.int32) for _ in range(2))
    places = torch.full(size, len(groups) * width, dtype=torch.int64)
    for g, group in enumerate(groups):
        prompt = group[0][0]
        end = len(prompt) - 1
        tokens[g, :end] = torch.tensor(prompt[:end], dtype=torch.int64)
        segments[g, :end] = 1
        for i, (_, reply) in enumerate(group):
            start, end = end, end + len(reply)
            tokens[g, start:end] = torch.tensor([prompt[-1], *reply[:-1]])
            segments[g, start:end], stems[g, start:end] = i + 2, min(1, len(prompt) - 1)
            first = len(prompt) - 1
            places[g * samples + i, first : first + len(reply)] = torch.arange(start, end) + g * width
    found = {"tokens": tokens, "segments": segments, "stems": stems, "places": places}
    return {f"branched_{key}": value for key, value in found.items()}


def token_nll(net, rows: Batch) -> Tensor:
    """(B, T): the NLL of the labels of rows of replies, 0 where there is none."""
    labels = rows["labels"]
    if "branched_tokens" not in rows:
        return net.nll(rows["tokens"], rows["segments"], labels)
    tokens, segments, stems = (rows[f"branched_{key}"] for key in ("tokens", "segments", "stems"))
    places = rows["branched_places"].flatten()
    there = labels.new_full((tokens.numel() + 1,), IGNORED).scatter(0, places, labels.flatten())
    nll = net.nll(tokens, segments, there[:-1].view_as(tokens), stems=stems).flatten()
    return torch.cat([nll, nll.new_zeros(1)])[places].view_as(labels)


def repeated(ids: list[int], n: int = 3) -> float:
    """The share of a reply's `n`-grams that it had said before."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def last(batch: Batch, values: Tensor) -> Tensor:
    """`values` (B, T) at the last token of each row: (B,)."""
    ends = (batch["segments"] > 0).sum(1).clamp(min=1) - 1
    return values.gather(1, ends[:, None])[:, 0]
