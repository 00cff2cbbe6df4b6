"""Memory of the language-model loss at a vocabulary of 128k: chunked, against all logits at once.

    python bench/loss_memory.py [--tokens 2048] [--width 128]

Counts every storage that forward and backward make beside the hidden states, the output matrix and their
gradients. Prints a Markdown table; the one measured last is in loss_memory.md.
"""

import argparse
import time

import torch
import torch.nn.functional as F

from llmkit.engine.live import Live
from llmkit.models.crossentropy import linear_cross_entropy

VOCABULARY = 128_256


def peak(loss_of, tokens: int, width: int) -> tuple[int, float, float]:
    """-> (bytes at the peak beside inputs and gradients, the loss, seconds)"""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, width, generator=generator).mul_(0.02).requires_grad_()
    labels = torch.randint(VOCABULARY, (tokens,), generator=generator)
    start = time.perf_counter()
    with Live([hidden, weight, labels]) as live:
        base = live.now
        loss = loss_of(hidden, weight, labels)
        loss.backward()
        gradients = sum(x.grad.numel() * 4 for x in (hidden, weight))
    return live.peak - base - gradients, loss.item(), time.perf_counter() - start


def unfused(hidden, weight, labels):
    return F.cross_entropy(F.linear(hidden, weight).float(), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=128)
    given = parser.parse_args()
    print(f"{given.tokens} tokens, width {given.width}, vocabulary {VOCABULARY:,}, fp32, CPU\n")
    print("| loss | peak, MiB | of the unfused | loss, nats | s |\n|---|---|---|---|---|")
    whole = None
    for name, loss_of in {
        "unfused": unfused,
        "llmkit, default": lambda h, w, y: linear_cross_entropy(h, w, y).mean(),
        "llmkit, at most 2^24 logits": lambda h, w, y: linear_cross_entropy(h, w, y, 1 << 24).mean(),
    }.items():
        found, loss, seconds = peak(loss_of, given.tokens, given.width)
        whole = whole or found
        print(
            f"| {name} | {found / 2**20:,.0f} | {found / whole:.3f} | {loss:.5f} | {seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
