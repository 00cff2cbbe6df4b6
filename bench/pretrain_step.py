"""What a pretraining step costs on this machine: llmkit's decoder beside transformers' Llama.

    python bench/pretrain_step.py                                        13.8 M parameters, batch 16 x 256
    python bench/pretrain_step.py --recipe pretrain/quickstart --vocab 4096

Prints a Markdown table; the one measured last is in pretrain_step.md. A step is forward, backward, clipping
and fused AdamW. The figure is the 25th percentile of the steps after the first two, so that other work on the
machine moves it little.
"""

import argparse
import platform
import time
from functools import partial

import torch

from llmkit import config
from llmkit.engine.recipe import TrainRecipe
from llmkit.models import blocks, size
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings

BASELINE = {"width": 384, "layers": 6, "heads": 6, "context": 256}


def ours(settings: Settings, compiled: bool):
    """-> (parameters, batch -> summed loss)"""
    net = initialise(Decoder(settings), 1).train()
    if compiled:
        net.compile()
    return list(net.parameters()), lambda batch: net.nll(*batch).sum()


def transformers_llama(settings: Settings, compiled: bool):
    """The same architecture from transformers, one document per row, its own cross-entropy."""
    from transformers import LlamaConfig, LlamaForCausalLM

    s = settings
    net = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=s.vocab_size,
            hidden_size=s.width,
            intermediate_size=s.mlp_dim,
            num_hidden_layers=s.layers,
            num_attention_heads=s.heads,
            num_key_value_heads=s.kv_heads,
            tie_word_embeddings=s.tie,
            use_cache=False,
        )
    ).train()
    run = torch.compile(net, dynamic=False) if compiled else net
    return list(net.parameters()), lambda batch: run(batch[0], labels=batch[0]).loss * batch[0].numel()


def ours_with_fused_attention(settings: Settings):
    """`ours`, compiled, with rows of any length going through torch's fused attention kernel."""
    params, loss_of = ours(settings, compiled=True)

    def loss(batch):
        kept, blocks.SHORT = blocks.SHORT, 0
        try:
            return loss_of(batch)
        finally:
            blocks.SHORT = kept

    return params, loss


def batches(settings: Settings, rows: int, device: str):
    """One batch of random tokens, two documents a row: tokens, segments, labels (B, T)."""
    T = settings.context
    tokens = torch.randint(0, settings.vocab_size, (rows, T), generator=torch.Generator().manual_seed(1))
    segments = torch.ones(rows, T, dtype=torch.int32)
    segments[:, T // 3 :] = 2
    return tuple(x.to(device) for x in (tokens, segments, tokens.roll(-1, 1)))


def measure(build, settings: Settings, rows: int, steps: int, precision: str) -> tuple[float, float]:
    """-> (seconds of a step, seconds of the first step with compilation)"""
    torch._dynamo.reset()
    params, loss_of = build(settings)
    batch = batches(settings, rows, params[0].device.type)
    optimizer = torch.optim.AdamW(params, lr=1e-3, fused=True)
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        with torch.autocast(params[0].device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(batch) / batch[0].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[2:])[steps // 4], seconds[0]


VARIANTS = {
    "transformers Llama, eager, fp32": (partial(transformers_llama, compiled=False), "fp32"),
    "transformers Llama, eager, bf16": (partial(transformers_llama, compiled=False), "bf16"),
    "transformers Llama, compiled, bf16": (partial(transformers_llama, compiled=True), "bf16"),
    "llmkit, eager, fp32": (partial(ours, compiled=False), "fp32"),
    "llmkit, eager, bf16": (partial(ours, compiled=False), "bf16"),
    "llmkit, compiled, bf16, fused attention": (ours_with_fused_attention, "bf16"),
    "llmkit, compiled, bf16": (partial(ours, compiled=True), "bf16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", help="take the model and the batch from this recipe")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="variants whose name contains this")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows, shape = given.rows, BASELINE
    if given.recipe:
        recipe = config.load(TrainRecipe, given.recipe)
        rows, shape = recipe.batch.rows, recipe.model.model_dump()
    settings = Settings(**{**shape, "vocab_size": given.vocab})
    tokens, flops = rows * settings.context, size.flops_per_token(settings, settings.context)
    millions = size.parameters_of(settings) / 1e6
    print(f"{millions:.1f} M parameters, vocabulary {given.vocab}, batch {rows} x {settings.context}")
    print(f"{given.threads} threads, torch {torch.__version__}, {platform.machine()}\n")
    print("| what | ms/step | tokens/s | GFLOP/s | first step, s |\n|---|---|---|---|---|")
    for name, (build, precision) in VARIANTS.items():
        if given.only in name:
            step, first = measure(build, settings, rows, given.steps, precision)
            row = (
                f"{step * 1e3:,.0f} | {tokens / step:,.0f} | {flops * tokens / step / 1e9:,.0f} | {first:.1f}"
            )
            print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
