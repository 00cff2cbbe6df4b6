"""Encoders and encoder-decoders on packed rows beside transformers' on padded ones: useful tokens a second.

    python bench/families_peers.py [--threads 2] [--rounds 5] [--only bert]
    python bench/families_peers.py --curves 100 [--lr 1e-3] [--double]     loss curves instead of rates

The same documents (paragraphs, or sentences, of State of the Union addresses since 1990; a BPE of 4,096
pieces trained on them), the same masks and spans, the same weights: each peer is built by transformers and
read by llmkit's importer, and the first batch has to have the same loss on both sides. A step is forward,
backward, clipping and fused AdamW on one batch of documents, fp32, nothing compiled. Peers get what their
collators give: documents padded to the longest of the batch, with an attention mask. llmkit gets them packed
best-fit into rows of `--context` positions. Sides take turns, and who goes first changes from round to round;
the ratio is the median over the rounds. With --curves both are trained on the same documents at the same rate
and their losses compared, step by step; beside them stands the peer again, with every weight off by its last
bit, which says how far rounding alone takes a net. Results: bench/families_peers.md.
"""

import argparse
import platform
import re
import statistics
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from llmkit import registry
from llmkit.data.pack import best_fit_sides, lay_side
from llmkit.models.crossentropy import IGNORED
from llmkit.models.hf import importing
from llmkit.objectives.text.causal import summed_nll

VOCAB, MASK, EOS, FIRST = 4096, 1, 2, 8
"""Ids 0 to 7 are special: padding, the mask, the end, and five sentinels (used in turn)."""
WIDTH, LAYERS, HEADS = 256, 4, 4


def documents(unit: str, context: int) -> list[np.ndarray]:
    """Token ids of every paragraph or sentence, cut to fit a row, in a fixed shuffled order."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    source = registry.find("source", "sotu")
    texts = [record["text"] for record in source(source.Settings(first_year=1990)).records()]
    if unit == "paragraphs":
        pieces = [p.strip() for text in texts for p in text.split("\n") if p.strip()]
    else:
        pieces = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator(pieces, trainers.BpeTrainer(vocab_size=VOCAB - FIRST, show_progress=False))
    ids = [np.array(e.ids[: context - 2]) + FIRST for e in tokenizer.encode_batch(pieces)]
    order = np.random.default_rng(0).permutation(len(ids))
    return [ids[i] for i in order if len(ids[i]) > 7]


def masked(ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """BERT's input and labels: 15 % of the tokens, all of them replaced by the mask."""
    chosen = draw.permutation(len(ids))[: max(1, round(0.15 * len(ids)))]
    tokens, labels = ids.copy(), np.full(len(ids), IGNORED)
    tokens[chosen], labels[chosen] = MASK, ids[chosen]
    return {"tokens": tokens, "labels": labels}


def spans(ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """T5's source and target: a span of 3 in every 20 tokens gives way to a sentinel."""
    source, target, at = [], [], int(draw.integers(1, 5))
    start = 0
    for number, span in enumerate(range(at, len(ids) - 2, 20)):
        sentinel = [3 + number % 5]
        source += [ids[start:span], sentinel]
        target += [sentinel, ids[span : span + 3]]
        start = span + 3
    source, labels = np.concatenate([*source, ids[start:], [EOS]]), np.concatenate([*target, [EOS]])
    return {"source": source, "tokens": np.concatenate([[0], labels[:-1]]), "labels": labels}


def padded(batch: list[dict]) -> dict[str, torch.Tensor]:
    """Every key as (documents, longest), and the mask of every side."""
    fill = {"tokens": 0, "labels": IGNORED, "source": 0}
    out = {}
    for key in batch[0]:
        longest = max(len(document[key]) for document in batch)
        rows = [np.pad(d[key], (0, longest - len(d[key])), constant_values=fill[key]) for d in batch]
        out[key] = torch.from_numpy(np.stack(rows))
    side = "source" if "source" in batch[0] else "tokens"
    lengths = torch.tensor([len(document[side]) for document in batch])
    out["mask"] = (torch.arange(out[side].shape[1]) < lengths[:, None]).long()
    return out


def packed(batch: list[dict], context: int) -> dict[str, torch.Tensor]:
    """The same documents, best-fit into rows of `context`, and of a third of it for targets."""
    sides = [key for key in ("source", "tokens") if key in batch[0]]
    room = {"source": context, "tokens": context // 3 if "source" in sides else context}
    sizes = [tuple(len(document[side]) for side in sides) for document in batch]
    rows = best_fit_sides(sizes, tuple(room[side] for side in sides))
    laid = [[batch[i] for i in row] for row in rows]
    out = lay_side(laid, "segments", {"tokens": 0, "labels": IGNORED}, room["tokens"])
    if "source" in sides:
        out |= lay_side(laid, "source_segments", {"source": 0}, room["source"])
    return out


def peer(family: str, context: int):
    """-> (a fresh model of transformers, llmkit's net with the same weights)"""
    import transformers

    torch.manual_seed(0)
    one_side = {
        "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "max_position_embeddings": context, "pad_token_id": 0,
    }  # fmt: skip
    if family == "bert":
        quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = transformers.BertConfig(**one_side, intermediate_size=4 * WIDTH, **quiet)
        theirs = transformers.BertForMaskedLM(config)
    elif family == "modernbert":
        config = transformers.ModernBertConfig(**one_side, intermediate_size=3 * WIDTH // 2)
        theirs = transformers.ModernBertForMaskedLM(config)
    else:
        config = transformers.T5Config(
            vocab_size=VOCAB, d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=8 * WIDTH // 3 // 32 * 32,
            num_layers=LAYERS, num_heads=HEADS, feed_forward_proj="gated-gelu", dropout_rate=0.0,
            tie_word_embeddings=True,
        )  # fmt: skip
        theirs = transformers.T5ForConditionalGeneration(config)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = importing.read(Path(folder))
    return theirs.train(), ours.train()


CASES = [
    ("bert", "paragraphs"),
    ("bert", "sentences"),
    ("modernbert", "paragraphs"),
    ("t5", "paragraphs"),
]


class Side:
    """A net, its optimiser, and its own form of the batches."""

    def __init__(self, net, batches: list[dict], loss, lr: float):
        self.params, self.batches, self.loss = list(net.parameters()), batches, loss
        self.optimizer = torch.optim.AdamW(self.params, lr=lr, betas=(0.9, 0.98), fused=True)
        self.losses: list[torch.Tensor] = []

    def steps(self, which: range) -> float:
        """Train on these batches -> seconds."""
        began = time.perf_counter()
        for i in which:
            loss = self.loss(self.batches[i])
            self.losses.append(loss.detach())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.params, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.perf_counter() - began


def sides(family: str, unit: str, given) -> tuple[Side, Side, list[int]]:
    """-> (transformers, llmkit, useful tokens of every batch)"""
    texts, draw = documents(unit, given.context), np.random.default_rng(1)
    noise = spans if family == "t5" else masked
    steps = given.curves or (given.rounds + 1) * given.steps
    noised = [noise(ids, draw) for ids in texts[: given.documents * steps]]
    batches = [noised[i : i + given.documents] for i in range(0, len(noised), given.documents)]
    theirs, ours = peer(family, given.context)
    if given.double:
        theirs, ours = theirs.double(), ours.double()
    useful = [sum(len(d["tokens"]) + len(d.get("source", ())) for d in batch) for batch in batches]

    def their_loss(batch):
        if "source" in batch:
            out = theirs(
                input_ids=batch["source"],
                attention_mask=batch["mask"],
                decoder_input_ids=batch["tokens"],
                labels=batch["labels"],
            )
        else:
            out = theirs(input_ids=batch["tokens"], attention_mask=batch["mask"], labels=batch["labels"])
        return out.loss

    def our_loss(batch):
        return summed_nll(ours, batch) / (batch["labels"] != IGNORED).sum()

    left = Side(theirs, [padded(batch) for batch in batches], their_loss, given.lr)
    right = Side(ours, [packed(batch, given.context) for batch in batches], our_loss, given.lr)
    with torch.no_grad():
        apart = (their_loss(left.batches[0]) - our_loss(right.batches[0])).abs().item()
    assert apart < 1e-4, f"{family}: the first losses differ by {apart}"
    return left, right, useful


def positions(batch: dict) -> int:
    return sum(batch[key].numel() for key in ("tokens", "source") if key in batch)


def curves(family: str, unit: str, given) -> str:
    """A row of a table: the loss of both sides along the way, and how far apart they ever are."""
    left, right, _ = sides(family, unit, given)
    again, _, _ = sides(family, unit, given)
    draw = torch.Generator().manual_seed(0)
    for p in again.params:
        last_bit = torch.finfo(p.dtype).eps * torch.randn(p.shape, generator=draw, dtype=p.dtype)
        p.data.mul_(1 + last_bit)
    theirs, ours, nudged = (trained(side, given) for side in (left, right, again))
    tenth = max(1, len(ours) // 10)
    seen = [f"{part[:tenth].mean():.4f} -> {part[-tenth:].mean():.4f}" for part in (theirs, ours)]
    apart = [f"{(theirs - part).abs().max():.1e}" for part in (ours, nudged)]
    return f"| {family}, {unit} | {len(ours)} | {' | '.join(seen + apart)} |"


def trained(side: Side, given) -> torch.Tensor:
    """The loss of every step; the rate rises over the first tenth of the steps and then stays."""
    for i in range(len(side.batches)):
        side.optimizer.param_groups[0]["lr"] = given.lr * min(1.0, 10 * (i + 1) / given.curves)
        side.steps(range(i, i + 1))
    return torch.stack(side.losses)


@contextmanager
def in_float64():
    """Nets are built in float64, and norms, softmaxes and losses do not go down to float32 either."""
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    narrow = torch.Tensor.float

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    def float_(x):
        return x if x.dtype == torch.float64 else narrow(x)

    with patch.object(torch.Tensor, "float", float_), patch.object(T5LayerNorm, "forward", norm):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each side in a round")
    parser.add_argument("--documents", type=int, default=24, help="documents of a batch")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--curves", type=int, default=0, help="compare losses over so many steps instead")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--double", action="store_true", help="curves in float64")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kind = "fp64" if given.double else "fp32"
    print(f"width {WIDTH}, {LAYERS} layers, vocabulary {VOCAB}, {given.documents} documents a step, {kind},")
    print(f"eager; rows of {given.context}; {given.rounds} rounds of {given.steps} steps,")
    print(f"{given.threads} threads, torch {torch.__version__}, {platform.machine()}\n")
    if given.curves:
        print("| what | steps | loss, mean of the first and last tenth: peer | llmkit", end=" | ")
        print("largest difference | of the peer to itself, nudged |\n|---|---|---|---|---|---|")
        with in_float64() if given.double else nullcontext():
            for case in CASES:
                if given.only in case[0]:
                    print(curves(*case, given), flush=True)
        return
    print("| what | padding: peer | llmkit | useful tokens/s: peer | llmkit | ratio: median, least, most |")
    print("|---|---|---|---|---|---|")
    for family, unit in CASES:
        if given.only not in family:
            continue
        left, right, useful = sides(family, unit, given)
        for side in (left, right):
            side.steps(range(given.steps))  # warm up
        rates: dict[str, list[float]] = {"theirs": [], "ours": []}
        for r in range(1, given.rounds + 1):
            which = range(r * given.steps, (r + 1) * given.steps)
            turns = [("theirs", left), ("ours", right)]
            for name, side in turns if r % 2 else turns[::-1]:
                rates[name].append(sum(useful[i] for i in which) / side.steps(which))
        ratios = [b / a for a, b in zip(rates["theirs"], rates["ours"], strict=True)]
        waste = [1 - sum(useful) / sum(positions(batch) for batch in side.batches) for side in (left, right)]
        row = [f"{family}, {unit}", *(f"{share:.0%}" for share in waste)]
        row += [f"{statistics.median(rates[name]):,.0f}" for name in ("theirs", "ours")]
        row.append(f"**{statistics.median(ratios):.2f}**, {min(ratios):.2f}, {max(ratios):.2f}")
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
