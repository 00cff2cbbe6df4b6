"""SFT, DPO and GRPO of llmkit beside TRL's trainers: the same net, weights, texts, masks and optimiser.

    pip install --no-deps trl==1.16.0 && python bench/posttraining_peers.py --work runs/bench

Conversations, pairs and prompts are those of recipes/data/preferences and recipes/data/lists, tokenised once
for both. A step is one optimiser step on the same texts: ours packed by best fit, TRL's padded to the longest
of the batch. Both have AdamW, clipping, fp32, no activation checkpointing, no logging, evaluation or saving;
the reference of DPO is asked live, its weights are another seed's. The net has the shape of that of
recipes/pipeline/grpo. GRPO draws as many replies of as many tokens as recipes/rlhf/quickstart_grpo, at
temperature 1 (TRL: Hugging Face's generate), and rewards exact answers. A net that has not learnt anything
replies until it is cut off, so both draw the same number of tokens.

Before anything is timed the losses of the first batch, and the log-probabilities of the same replies, must
agree to 1e-5. Then all take turns, a round at a time. Prints a Markdown table of medians over rounds of the
median step, by the clock and by CPU time (which other work on the machine disturbs less); the one measured
last is in posttraining_peers.md.
"""

import argparse
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import datasets
import torch
import transformers
import trl
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from llmkit import dist, registry
from llmkit.data.pack import IGNORED, best_fit, lay, shifted
from llmkit.data.sets.chats import read_records
from llmkit.data.sets.prompts import Prompts
from llmkit.engine import loop
from llmkit.engine.backend_ddp import Ddp
from llmkit.engine.recipe import Optim, Parallel
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.hf import export
from llmkit.tokenizer import chat
from llmkit.tokenizer.vocabulary import Tokenizer

SEED, REFERENCE = 1, 2
WIDTH, LAYERS, HEADS, CONTEXT = 192, 4, 3, 256
TEXTS, PAIRS, PROMPTS, SAMPLES, LONGEST = 32, 16, 16, 8, 10
LR, BETA = 1e-4, 0.1
Step = list
"""The texts of one optimiser step."""


class Data:
    """What both sides are given: texts with a mask, pairs, prompts; cut into steps."""

    def __init__(self, work: Path):
        made = {"sotu": "data/sotu", "pairs": "data/preferences", "lists": "data/lists"}
        for name, recipe in made.items():
            llmkit("data", "collect", recipe, f"out={work / name}")
        self.folder = work / "tokenizer"
        llmkit("tokenizer", "train", "llama_2k", f"data={work / 'sotu'}", f"out={self.folder}")
        self.tokenizer = Tokenizer.load(self.folder)
        pairs = list(filter(None, map(self._pair, read_records(str(work / "pairs"), "train", "pairs"))))
        random.Random(SEED).shuffle(pairs)
        self.pairs = steps(pairs, PAIRS)
        self.texts = steps([(prompt, chosen) for prompt, chosen, _ in pairs], TEXTS)
        asked = Prompts.Settings(data=str(work / "lists"), tokenizer=str(self.folder))
        self.prompts = Prompts(asked, "train", SEED)

    def _pair(self, record) -> tuple[list[int], list[int], list[int]] | None:
        """Token ids of the prompt and of both replies, their end markers included; None: does not fit."""
        opened, _ = chat.render(self.tokenizer, record["prompt"], open_reply=True)
        replies = []
        for key in ("chosen", "rejected"):
            said = [*record["prompt"], {"role": "assistant", "content": record[key]}]
            ids, mask = chat.render(self.tokenizer, said)
            ids = ids[: max(i for i, learned in enumerate(mask) if learned) + 1]
            assert ids[: len(opened)] == opened
            assert all(mask[len(opened) : len(ids)])
            replies.append(ids[len(opened) :])
        fits = 2 * len(opened) + sum(map(len, replies)) <= CONTEXT
        return (opened, *replies) if fits and replies[0] != replies[1] else None


def steps(items: list, size: int) -> list[Step]:
    return [items[i : i + size] for i in range(0, len(items) - size + 1, size)]


def llmkit(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "llmkit", *words], check=True, stdout=subprocess.DEVNULL)


# ---- ours --------------------------------------------------------------------------------------------------


class Ours:
    """An objective on llmkit's engine: rows, preparation, counts, micro-batch, clipping, fused AdamW."""

    seed = SEED

    def __init__(self, net: Settings, data: Data, **objective):
        cls = registry.find("objective", objective["name"])
        self.objective, self.data = cls(cls.Settings.model_validate(objective)), data
        with torch.device("meta"):
            nets = self.objective.build(lambda **_: Decoder(net))
        if "reference" in nets:
            initialise(nets["reference"], REFERENCE)
        optims = {"model": Optim(lr=LR, weight_decay=0.0)}
        parallel = Parallel(backend="ddp", precision="fp32", compile="off")
        self.backend, self.done = Ddp(self.objective, nets, optims, parallel, SEED), 0

    def batch(self, number: int) -> dict:
        raise NotImplementedError

    def add(self, *seen):
        """Nobody listens to what is measured."""

    watch = add

    def step(self, number: int) -> None:
        (phase,) = self.objective.phases
        group = self.backend.prepare(self.backend.place([self.batch(number)]), number)
        for update in range(phase.updates):
            self.backend.begin(phase, number, 1.0)
            rows = self.objective.rows(phase, update, group)
            loop.take_update(self.objective, phase, self.backend, rows, self, self)

    def run(self, count: int) -> list[tuple[float, float]]:
        out = []
        for _ in range(count):
            start = now()
            self.step(self.done)
            self.done += 1
            out.append(since(start))
        return out

    def first_loss(self) -> float:
        (phase,) = self.objective.phases
        (batch,) = self.backend.prepare([self.batch(0)], 0)
        with torch.no_grad():
            total = self.objective.count(phase, batch)
            return float(self.objective.loss(phase, self.backend.nets, batch, total)[0])


class OurSft(Ours):
    def batch(self, number):
        texts = self.data.texts[number % len(self.data.texts)]
        documents = [document(prompt, reply) for prompt, reply in texts]
        rows = best_fit([len(tokens) for tokens, _ in documents], CONTEXT)
        return lay([[documents[i] for i in row] for row in rows], CONTEXT, self.data.tokenizer.pad)


class OurDpo(Ours):
    def batch(self, number):
        pairs = self.data.pairs[number % len(self.data.pairs)]
        laid = [[document(prompt, chosen), document(prompt, rejected)] for prompt, chosen, rejected in pairs]
        rows = best_fit([sum(len(tokens) for tokens, _ in pair) for pair in laid], CONTEXT)
        valid = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool)
        for b, row in enumerate(rows):
            valid[b, : len(row)] = True
        flat = [[side for i in row for side in laid[i]] for row in rows]
        return {**lay(flat, CONTEXT, self.data.tokenizer.pad), "valid": valid}


class OurGrpo(Ours):
    def batch(self, number):
        return self.data.prompts.batch([(i, i) for i in prompts_of(number, self.data)])

    def first_loss(self) -> float:
        """The mean log-probability of made-up replies: the loss of an untaught net is 0."""
        prompts, replies = made_up(self.data)
        rows = [[document(p, r)] for p, r in zip(prompts, replies, strict=True)]
        batch = lay(rows, CONTEXT, self.data.tokenizer.pad)
        with torch.no_grad():
            nll = self.backend.nets["model"].nll(batch["tokens"], batch["segments"], batch["labels"])
        return float(-nll.sum() / (batch["labels"] != IGNORED).sum())


def document(prompt: list[int], reply: list[int]):
    """(tokens, labels) of a prompt and its reply, of which only the reply is learnt; as in data/sets."""
    tokens, labels = shifted(prompt + reply, [0] * len(prompt) + [1] * len(reply))
    return tokens[:-1], labels[:-1]  # nothing is predicted from the last token


def prompts_of(number: int, data: Data) -> list[int]:
    return [(number * PROMPTS + i) % len(data.prompts) for i in range(PROMPTS)]


def made_up(data: Data) -> tuple[list[list[int]], list[list[int]]]:
    """The prompts of the first step, and a reply of LONGEST random tokens to each."""
    prompts = [prompt.ids for prompt in data.prompts.batch([(i, i) for i in prompts_of(0, data)])["prompts"]]
    draw = torch.Generator().manual_seed(SEED)
    shape = len(prompts), LONGEST
    return prompts, torch.randint(4, data.tokenizer.vocab_size, shape, generator=draw).tolist()


# ---- theirs ------------------------------------------------------------------------------------------------


class Theirs:
    """A trainer of TRL on the exported net; a new one every round, which goes on with the same weights."""

    def __init__(self, folder: Path, data: Data, reference: Path | None = None):
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.net = load(folder, dtype=torch.float32)
        self.reference = load(reference, dtype=torch.float32) if reference else None
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.data, self.done = data, 0

    def trainer(self, first: int, count: int):
        """A trainer that takes the steps from number `first` on, and their texts alone."""
        raise NotImplementedError

    def arguments(self, count: int, rows: int) -> dict:
        return {
            "output_dir": "/tmp/posttraining_peers", "max_steps": count, "use_cpu": True, "bf16": False,
            "per_device_train_batch_size": rows, "gradient_checkpointing": False, "report_to": [],
            "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "learning_rate": LR,
            "lr_scheduler_type": "constant", "optim": "adamw_torch_fused", "adam_beta2": 0.95,
            "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": SEED,
        }  # fmt: skip

    def run(self, count: int) -> list[tuple[float, float]]:
        out = []

        class Clock(transformers.TrainerCallback):
            """From the end of one step to the end of the next, so that the collator counts."""

            def on_train_begin(self, *args, **kwargs):
                self.start = now()

            def on_step_end(self, *args, **kwargs):
                out.append(since(self.start))
                self.start = now()

        trainer = self.trainer(self.done, count)
        trainer.add_callback(Clock())
        trainer.train()
        self.done += count
        return out

    def first_loss(self) -> float:
        trainer = self.trainer(0, 1)
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, batch, **self.counted(batch)))

    def counted(self, batch) -> dict:
        return {}

    def some(self, of: list[Step], first: int, count: int) -> list:
        return [item for i in range(first, first + count) for item in of[i % len(of)]]


class TheirSft(Theirs):
    def trainer(self, first, count):
        rows = [
            {"input_ids": prompt + reply, "labels": [IGNORED] * len(prompt) + reply}
            for prompt, reply in self.some(self.data.texts, first, count)
        ]
        arguments = SFTConfig(
            **self.arguments(count, TEXTS), train_sampling_strategy="sequential", shuffle_dataset=False,
            dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        )  # fmt: skip
        made = datasets.Dataset.from_list(rows)
        return SFTTrainer(self.net, arguments, train_dataset=made, processing_class=self.tokenizer)

    def counted(self, batch):
        return {"num_items_in_batch": (batch["labels"][:, 1:] != IGNORED).sum()}


class Prepared(DPOTrainer):
    """TRL's trainer on token ids as they are."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


class TheirDpo(Theirs):
    def trainer(self, first, count):
        keys = ("prompt_ids", "chosen_ids", "rejected_ids")
        rows = [dict(zip(keys, pair, strict=True)) for pair in self.some(self.data.pairs, first, count)]
        arguments = DPOConfig(
            **self.arguments(count, PAIRS), train_sampling_strategy="sequential", beta=BETA, max_length=None
        )
        made = datasets.Dataset.from_list(rows)
        return Prepared(
            self.net, self.reference, arguments, train_dataset=made, processing_class=self.tokenizer
        )


class TheirGrpo(Theirs):
    def trainer(self, first, count):
        numbers = [n for i in range(first, first + count) for n in prompts_of(i, self.data)]
        asked = self.data.prompts.batch([(n, n) for n in numbers])["prompts"]
        rows = [{"prompt": p.record["messages"][:-1], "answer": p.record["answer"]} for p in asked]
        found = self.tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True)
        assert found["input_ids"] == asked[0].ids
        arguments = GRPOConfig(
            **self.arguments(count, PROMPTS * SAMPLES), num_generations=SAMPLES, shuffle_dataset=False,
            max_completion_length=LONGEST, temperature=1.0, top_k=0, top_p=1.0, beta=0.0, loss_type="dapo",
            steps_per_generation=1,
        )  # fmt: skip
        made = datasets.Dataset.from_list(rows)
        return GRPOTrainer(self.net, exact, arguments, train_dataset=made, processing_class=self.tokenizer)

    def first_loss(self) -> float:
        prompts, replies = made_up(self.data)
        found = []
        for prompt, reply in zip(prompts, replies, strict=True):
            with torch.no_grad():
                logits = self.net(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
            found.append(logits.log_softmax(-1).gather(1, torch.tensor(reply)[:, None]))
        return float(torch.cat(found).mean())


def exact(completions, answer, **_) -> list[float]:
    return [float(said[0]["content"] == right) for said, right in zip(completions, answer, strict=True)]


# ---- turns -------------------------------------------------------------------------------------------------


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU time."""
    return tuple(b - a for a, b in zip(start, now(), strict=True))


def contenders(data: Data, work: Path, chosen: list[str]) -> dict[str, tuple[float, Ours, Theirs]]:
    """name -> (what a step is worth, ours, theirs)"""
    net = Settings(
        width=WIDTH, layers=LAYERS, heads=HEADS, context=CONTEXT, vocab_size=data.tokenizer.vocab_size
    )
    for seed in (SEED, REFERENCE):
        if not (work / f"net{seed}").is_dir():
            with torch.device("meta"):
                empty = Decoder(net)
            out, settings = work / "unproved", export.Export(ckpt="made here")
            shutil.rmtree(out, ignore_errors=True)
            export.publish(initialise(empty, seed), data.tokenizer, out, settings, None)
            out.rename(work / f"net{seed}")
    tokens = statistics.mean(sum(len(p) + len(r) - 1 for p, r in step) for step in data.texts)
    grpo = {"samples": SAMPLES, "max_new": LONGEST, "rewards": [{"name": "exact"}]}
    made = {
        "SFT, tokens/s": lambda: (
            tokens, OurSft(net, data, name="sft"), TheirSft(work / f"net{SEED}", data)
        ),
        "DPO, pairs/s": lambda: (
            PAIRS, OurDpo(net, data, name="dpo", beta=BETA),
            TheirDpo(work / f"net{SEED}", data, work / f"net{REFERENCE}"),
        ),
        "GRPO, samples/s": lambda: (
            PROMPTS * SAMPLES, OurGrpo(net, data, name="grpo", **grpo), TheirGrpo(work / f"net{SEED}", data)
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
    print(f"{WIDTH} wide, {LAYERS} layers, {data.tokenizer.vocab_size} pieces, fp32, {given.threads} threads")
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
