"""What both sides of posttraining_peers.py are given: texts with a mask, pairs, prompts; cut into steps."""

import random
import subprocess
import sys
import time
from pathlib import Path

import torch

from llmkit.data.sets.chats import read_records
from llmkit.data.sets.prompts import Prompts
from llmkit.models.decoder import Settings
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
        self.net = Settings(
            width=WIDTH, layers=LAYERS, heads=HEADS, context=CONTEXT, vocab_size=self.tokenizer.vocab_size
        )
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


def prompts_of(number: int, data: Data) -> list[int]:
    return [(number * PROMPTS + i) % len(data.prompts) for i in range(PROMPTS)]


def made_up(data: Data) -> tuple[list[list[int]], list[list[int]]]:
    """The prompts of the first step, and a reply of LONGEST random tokens to each."""
    prompts = [prompt.ids for prompt in data.prompts.batch([(i, i) for i in prompts_of(0, data)])["prompts"]]
    draw = torch.Generator().manual_seed(SEED)
    shape = len(prompts), LONGEST
    return prompts, torch.randint(4, data.tokenizer.vocab_size, shape, generator=draw).tolist()


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU time."""
    return tuple(b - a for a, b in zip(start, now(), strict=True))
