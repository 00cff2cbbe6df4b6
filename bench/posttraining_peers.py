"""SFT, DPO and GRPO of llmkit beside TRL's trainers: the same net, weights, texts, masks and optimiser.

    pip install --no-deps trl==1.16.0 && python bench/posttraining_peers.py --work runs/bench

Conversations, pairs and prompts are those of recipes/data/preferences and recipes/data/lists, tokenised once
for both. A step is one optimiser step on the same texts: ours packed by best fit, TRL's padded to the longest
of the batch. Both have AdamW, clipping, fp32, no activation checkpointing, no logging, evaluation or saving;
the reference of DPO is asked live, its weights are another seed's. The net is 192 wide with 4 layers. GRPO
draws as many replies of as many tokens as recipes/rlhf/quickstart_grpo, at temperature 1 (TRL: Hugging Face's
generate), and rewards exact answers. A net that has not learnt anything replies until it is cut off, so both
draw the same number of tokens.

Before anything is timed the losses of the first batch, and the log-probabilities of the same replies, must
agree to 1e-5. Then all take turns, a round at a time. Prints a Markdown table of medians over rounds of the
median step, by the clock and by CPU time (which other work on the machine disturbs less); the one measured
last is in posttraining_peers.md.
"""

import argparse
import platform
import shutil
import statistics
from pathlib import Path

import torch
import transformers
import trl
from posttraining.data import BETA, LONGEST, PAIRS, PROMPTS, REFERENCE, SAMPLES, SEED, Data
from posttraining.ours import OurDpo, OurGrpo, Ours, OurSft
from posttraining.theirs import TheirDpo, TheirGrpo, Theirs, TheirSft

from llmkit import dist
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder
from llmkit.models.hf import export


def contenders(data: Data, work: Path, chosen: list[str]) -> dict[str, tuple[float, Ours, Theirs]]:
    """name -> (what a step is worth, ours, theirs)"""
    for seed in (SEED, REFERENCE):
        if not (work / f"net{seed}").is_dir():
            with torch.device("meta"):
                empty = Decoder(data.net)
            out, settings = work / "unproved", export.Export(ckpt="made here")
            shutil.rmtree(out, ignore_errors=True)
            export.publish(initialise(empty, seed), data.tokenizer, out, settings, None)
            out.rename(work / f"net{seed}")
    tokens = statistics.mean(sum(len(p) + len(r) - 1 for p, r in step) for step in data.texts)
    grpo = {"samples": SAMPLES, "max_new": LONGEST, "rewards": [{"name": "exact"}]}
    made = {
        "SFT, tokens/s": lambda: (
            tokens, OurSft(data, name="sft"), TheirSft(work / f"net{SEED}", data)
        ),
        "DPO, pairs/s": lambda: (
            PAIRS, OurDpo(data, name="dpo", beta=BETA),
            TheirDpo(work / f"net{SEED}", data, work / f"net{REFERENCE}"),
        ),
        "GRPO, samples/s": lambda: (
            PROMPTS * SAMPLES, OurGrpo(data, name="grpo", **grpo), TheirGrpo(work / f"net{SEED}", data)
        ),
    }  # fmt: skip
    return {name: make() for name, make in made.items() if name.split(",")[0].lower() in chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/bench_posttraining"), help="data and nets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps of a round")
    parser.add_argument("--drop", type=int, default=2, help="of them dropped")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=["sft", "dpo", "grpo"], default=["sft", "dpo", "grpo"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    dist.start("cpu", 60, group=False)
    data = Data(given.work)
    pairs = contenders(data, given.work, given.only)
    net = data.net
    print(f"{net.width} wide, {net.layers} layers, {net.vocab_size} pieces, fp32, {given.threads} threads")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}, "
          f"{platform.machine()}, {given.rounds} rounds of {given.steps - given.drop} steps\n")  # fmt: skip
    for name, (_, ours, theirs) in pairs.items():
        first = ours.first_loss(), theirs.first_loss()
        print(f"{name.split(',')[0]}: first batch {first[0]:.7f}, TRL's {first[1]:.7f}")
        assert abs(first[0] - first[1]) <= 1e-5 * abs(first[1]), name
    found: dict[str, list] = {name: [] for name in pairs}
    for number in range(given.rounds):
        for name, (_, *both) in pairs.items():
            medians = []
            for side in both:
                spent = side.run(given.steps)[given.drop :]
                medians.append([statistics.median(each) for each in zip(*spent, strict=True)])
            found[name].append(medians)
            said = ", ".join(f"{clock:.2f} s ({cpu:.2f} CPU)" for clock, cpu in medians)
            print(f"round {number + 1}, {name.split(',')[0]}: a step takes {said}", flush=True)
    print("\n| what | llmkit | TRL | ratio | ratio by CPU time | ratios of the rounds |")
    print("|---|---|---|---|---|---|")
    for name, (worth, *_) in pairs.items():
        rate = [statistics.median(worth / turn[side][0] for turn in found[name]) for side in (0, 1)]
        clock, cpu = ([turn[1][k] / turn[0][k] for turn in found[name]] for k in (0, 1))
        print(f"| {name} | {rate[0]:,.0f} | {rate[1]:,.0f} | {statistics.median(clock):.2f} | "
              f"{statistics.median(cpu):.2f} | {min(clock):.2f} to {max(clock):.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
