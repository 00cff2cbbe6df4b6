"""A pretraining step of llmkit's engine, of a bare torch loop, and of transformers' Trainer, interleaved.

    python bench/pretrain_peers.py                      width 384, 6 layers, T 256, vocabulary 8192, batch 16
    python bench/pretrain_peers.py --precision bf16 --compile

Every round trains each contender for some steps on the same pre-made tensors, with the same threads, no
evaluation, logging or saving, and drops the first ones; figures are medians over rounds. The matrix rate is
the best square product measured in the same run, FLOPs are the model's (llmkit.models.size). Prints a
Markdown table; the one measured last is in pretrain_peers.md.
"""

import argparse
import platform
import statistics
import time

import torch

from llmkit import dist, registry
from llmkit.engine import loop
from llmkit.engine.backend_ddp import Ddp
from llmkit.engine.recipe import Optim, Parallel
from llmkit.models import size
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings


class Engine:
    """llmkit's own update: counts, micro-batch, clipping, fused AdamW; nobody listens to what it measures."""

    seed = 1

    def __init__(self, settings: Settings, batch: dict, given):
        causal = registry.find("objective", "causal")
        self.objective, self.batch = causal(causal.Settings()), batch
        with torch.device("meta"):
            net = Decoder(settings)
        parallel = Parallel(backend="ddp", precision=given.precision, compile="off")
        self.backend = Ddp(self.objective, {"model": net}, {"model": Optim()}, parallel, 1)
        if given.compile:
            net.compile()
        self.number = 0

    def add(self, *seen):
        pass

    watch = add

    def steps(self, count: int) -> list[float]:
        seconds = []
        (phase,) = self.objective.phases
        for _ in range(count):
            start = time.perf_counter()
            group = self.backend.place([self.batch])
            self.backend.begin(phase, self.number, 1.0)
            loop.take_update(self.objective, phase, self.backend, group, self, self)
            self.number += 1
            seconds.append(time.perf_counter() - start)
        return seconds


class Bare:
    """The same net in a loop as one would write it by hand."""

    def __init__(self, settings: Settings, batch: dict, given):
        self.net = initialise(Decoder(settings), 1).train()
        if given.compile:
            self.net.compile()
        self.batch, self.bf16 = batch, given.precision == "bf16"
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )

    def steps(self, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                nll = self.net.nll(self.batch["tokens"], self.batch["segments"], self.batch["labels"])
                loss = nll.sum() / self.batch["tokens"].numel()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            loss.item()
            seconds.append(time.perf_counter() - start)
        return seconds


class Trainer:
    """transformers' Trainer with LlamaForCausalLM of the same shape, as it comes or with torch_compile."""

    compiled = False

    def __init__(self, settings: Settings, batch: dict, given):
        from transformers import LlamaConfig, LlamaForCausalLM

        s = settings
        self.net = LlamaForCausalLM(LlamaConfig(
            vocab_size=s.vocab_size, hidden_size=s.width, intermediate_size=s.mlp_dim,
            num_hidden_layers=s.layers, num_attention_heads=s.heads, num_key_value_heads=s.kv_heads,
            tie_word_embeddings=s.tie, use_cache=False,
        ))  # fmt: skip
        self.rows = [{"input_ids": row, "labels": row} for row in batch["tokens"]]
        self.given = given

    def steps(self, count: int) -> list[float]:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        seconds: list[float] = []

        class Clock(TrainerCallback):
            def on_step_begin(self, *args, **kwargs):
                self.start = time.perf_counter()

            def on_step_end(self, *args, **kwargs):
                seconds.append(time.perf_counter() - self.start)

        arguments = TrainingArguments(
            output_dir="/tmp/pretrain_peers", max_steps=count, use_cpu=True, report_to=[], save_strategy="no",
            logging_strategy="no", per_device_train_batch_size=len(self.rows), learning_rate=1e-3,
            bf16=self.given.precision == "bf16", torch_compile=self.compiled, disable_tqdm=True,
        )  # fmt: skip
        Trainer(self.net, arguments, train_dataset=self.rows * count, callbacks=[Clock()]).train()
        return seconds


class CompiledTrainer(Trainer):
    compiled = True


def matrix_rate(dtype: torch.dtype, most: int) -> float:
    """FLOPs per second of the best square product."""
    best = 0.0
    for n in (1024, 2048, 4096):
        if n <= most:
            a = torch.randn(n, n).to(dtype)
            for _ in range(3):
                start = time.perf_counter()
                a @ a
                best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of a round")
    parser.add_argument("--drop", type=int, default=5, help="of them dropped")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="compile ours, and add the compiled Trainer")
    parser.add_argument("--matrix", type=int, default=4096, help="largest product that is timed")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dist.start("cpu", 60, group=False)
    T = 256
    settings = Settings(width=384, layers=6, heads=6, context=T, vocab_size=8192)
    tokens = torch.randint(8192, (given.rows, T), generator=torch.Generator().manual_seed(1))
    batch = {"tokens": tokens, "segments": torch.ones(given.rows, T, dtype=torch.int32), "labels": tokens}
    names = {"llmkit's engine": Engine, "bare loop, same net": Bare, "transformers Trainer": Trainer}
    if given.compile:
        names["transformers Trainer, torch_compile"] = CompiledTrainer
    contenders = {name: kind(settings, batch, given) for name, kind in names.items()}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    peaks = []
    for _ in range(given.rounds):
        peaks.append(
            matrix_rate(torch.bfloat16 if given.precision == "bf16" else torch.float32, given.matrix)
        )
        for name, contender in contenders.items():
            found[name].append(statistics.median(contender.steps(given.steps)[given.drop :]))
    compiled = ", compiled" if given.compile else ""
    millions = f"{size.parameters_of(settings) / 1e6:.1f} M parameters"
    rounds = f"{given.rounds} rounds of {given.steps - given.drop} steps"
    print(f"{millions}, {given.rows} x {T} tokens, {given.precision}{compiled}, {rounds}")
    print(f"{given.threads} threads, torch {torch.__version__}, {platform.machine()}\n")
    peak, flops = max(peaks), size.flops_per_token(settings, T) * given.rows * T
    print("| what | ms/step | tokens/s | speed-up of the engine | of the matrix rate |")
    print("|---|---|---|---|---|")
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        ratio = statistics.median(b / a for a, b in zip(found["llmkit's engine"], seconds, strict=True))
        print(f"| {name} | {middle * 1e3:,.0f} | {given.rows * T / middle:,.0f} | {ratio:.2f} | "
              f"{flops / middle / peak:.0%} |")  # fmt: skip
    print(f"\nbest square product: {peak / 1e9:,.0f} GFLOP/s")


if __name__ == "__main__":
    main()
