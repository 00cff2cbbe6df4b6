"""nanoGPT's published CPU setting, our decoder beside transformers' GPT2LMHeadModel.

    python bench/nanogpt_yardstick.py [--steps 2000] [--threads 2]

4 layers, 4 heads, width 128, block 64, batch 12, 2,000 iterations, dropout 0 (Karpathy 2022, nanoGPT's
README, "I only have a macbook"): AdamW (0.9, 0.99), decay 0.1 on matrices, lr 1e-3 with 100 steps of warm-up
and a cosine to 1e-4, clip 1. Characters of State of the Union addresses since 1990, the last tenth held out.
Two differences from nanoGPT, the same on both sides: the corpus, and the biases that transformers' GPT-2 has.

Both nets begin with the same weights (ours, through the exporter's names) and see the same batches in turn.
Exits 1 if the losses part by more than 1e-3 in the first 50 steps, or the held-out ones by more than 0.02.
"""

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit import registry
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.hf.gpt2 import Gpt2

BLOCK, BATCH, WARMUP, LR, LEAST = 64, 12, 100, 1e-3, 1e-4
HELD_OUT_ROWS = 600
EARLY, EARLY_BOUND, LATE_BOUND = 50, 1e-3, 0.02


def characters() -> tuple[Tensor, int]:
    """The corpus as ids of its characters, and how many kinds there are."""
    source = registry.find("source", "sotu")
    text = "\n\n".join(record["text"] for record in source(source.Settings(first_year=1990)).records())
    kinds = {c: i for i, c in enumerate(sorted(set(text)))}
    return torch.tensor([kinds[c] for c in text]), len(kinds)


def windows(ids: Tensor, rows: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows from random places: tokens and the characters that follow, both (rows, BLOCK)."""
    at = torch.randint(len(ids) - BLOCK, (rows, 1), generator=draw) + torch.arange(BLOCK + 1)
    return ids[at[:, :-1]], ids[at[:, 1:]]


def twins(vocabulary: int) -> tuple[Decoder, nn.Module]:
    """Our decoder, and transformers' GPT-2 with the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    style = {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True}
    ours = Decoder(Settings(**style, width=128, layers=4, heads=4, context=BLOCK, vocab_size=vocabulary))
    initialise(ours, seed=1337)
    shape = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": BLOCK, "vocab_size": vocabulary}
    shape |= {"bos_token_id": None, "eos_token_id": None}
    theirs = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    given = {name: tensor.detach().clone() for name, tensor in Gpt2.give(ours)}
    missing, unexpected = theirs.load_state_dict(given, strict=False)
    assert missing == ["lm_head.weight"], missing  # tied
    assert not unexpected, unexpected
    return ours, theirs


class Side:
    """One net, its optimiser, and the time that it took."""

    def __init__(self, net: nn.Module, nll: Callable[[Tensor, Tensor], Tensor]):
        self.net, self.nll, self.seconds = net.train(), nll, 0.0
        matrices = [p for p in net.parameters() if p.ndim > 1]
        vectors = [p for p in net.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)

    def step(self, tokens: Tensor, labels: Tensor, lr: float) -> float:
        """One step of the optimiser; -> the loss before it, in nats per character."""
        begun = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss = self.nll(tokens, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.seconds += time.perf_counter() - begun
        return loss.item()

    @torch.no_grad()
    def held_out(self, tokens: Tensor, labels: Tensor) -> float:
        """Nats per character."""
        pairs = zip(tokens.split(60), labels.split(60), strict=True)
        return sum(self.nll(*pair).item() * len(pair[0]) for pair in pairs) / len(tokens)


def learning_rate(step: int, steps: int) -> float:
    """nanoGPT's schedule: linear from 0, then a cosine that ends with the run."""
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return LEAST + 0.5 * (1 + math.cos(math.pi * done)) * (LR - LEAST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ids, vocabulary = characters()
    cut = len(ids) * 9 // 10
    ours, theirs = twins(vocabulary)

    def their_nll(tokens: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(theirs(tokens).logits.flatten(0, 1), labels.flatten())

    sides = Side(ours, lambda tokens, labels: ours.nll(tokens, None, labels).mean()), Side(theirs, their_nll)
    kept = windows(ids[cut:], HELD_OUT_ROWS, torch.Generator().manual_seed(1))
    draw, parted = torch.Generator().manual_seed(0), []
    weights = sum(p.numel() for p in ours.parameters())
    print(f"{len(ids):,} characters of {vocabulary} kinds, {weights:,} parameters, fp32")
    print(f"{given.threads} threads, torch {torch.__version__}, {platform.machine()}\n")
    print("| step | llmkit: train | held out | GPT2LMHeadModel: train | held out |\n|---|---|---|---|---|")
    for step in range(given.steps):
        batch, lr = windows(ids[:cut], BATCH, draw), learning_rate(step, given.steps)
        losses = [side.step(*batch, lr) for side in sides]
        parted.append(abs(losses[0] - losses[1]))
        if step in (0, EARLY - 1) or (step + 1) % 500 == 0 or step + 1 == given.steps:
            found = [side.held_out(*kept) for side in sides]
            cells = (f"{loss:.4f} | {late:.4f}" for loss, late in zip(losses, found, strict=True))
            print(f"| {step + 1:,} | {' | '.join(cells)} |", flush=True)
    early, late = max(parted[:EARLY]), abs(found[0] - found[1])
    rates = [1000 * side.seconds / given.steps for side in sides]
    print(f"\nLargest difference of a training loss in {EARLY} steps: {early:.1e} (bound {EARLY_BOUND})")
    print(f"Difference of the held-out losses at the end: {late:.4f} nat (bound {LATE_BOUND})")
    print(f"{rates[0]:.0f} and {rates[1]:.0f} ms a step")
    sys.exit(early > EARLY_BOUND or late > LATE_BOUND)


if __name__ == "__main__":
    main()
