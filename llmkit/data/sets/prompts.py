"""Prompts for reinforcement learning: what is asked, and the record that tells right from wrong.

A batch is not laid out as rows yet: the objective draws the replies first (objectives/rl/rollout.py).
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from llmkit import manifest
from llmkit.config import Section
from llmkit.data.sets.chats import read_records
from llmkit.errors import DataError
from llmkit.registry import register
from llmkit.tokenizer import chat
from llmkit.tokenizer.vocabulary import Tokenizer


class Prompt(NamedTuple):
    """One prompt as it stands in a batch."""

    ids: list[int]
    """The conversation up to where the reply begins."""
    record: dict[str, Any]
    """The record as it was collected: messages, answer, ..."""
    key: str
    """Names the random stream of its replies: run seed, prompt, and how often it has come up."""


@register("dataset", "prompts")
class Prompts:
    """The prompts of conversations that a verifier or a reward model can judge. `counts` accounts for all."""

    class Settings(Section):
        name: Literal["prompts"] = "prompts"
        data: str = Field(description="directory made by `data collect kind=prompts` or kind=conversations")
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        prompt_len: int = Field(128, gt=0, description="longest prompt in tokens; longer ones are dropped")
        needs: list[str] = Field(
            ["answer"],
            description="keys of a record without which it is dropped; [] for a reward model alone",
        )
        sources: list[str] | None = Field(None, description="only these sources; default: all")

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        self.settings, self.seed = settings, f"{seed}/{split}"
        self.seq_len = settings.prompt_len
        self.tokenizer_dir = Path(settings.tokenizer)
        self._tokenizer = tokenizer = Tokenizer.load(self.tokenizer_dir)
        self.vocab_size = tokenizer.vocab_size
        self._stop = chat.stop_ids(tokenizer)
        self.template = tokenizer.template_fingerprint
        parents = [manifest.fingerprint(Path(settings.data)), tokenizer.fingerprint]
        self.fingerprint = manifest.digest([*parents, settings.model_dump(mode="json")["sources"]])
        self.counts: Counter = Counter()
        records = read_records(settings.data, split, "conversations")
        self._prompts = [found for found in map(self._prompt, records) if found]
        if not self._prompts:
            dropped = ", ".join(f"{n} {why}" for why, n in self.counts.items())
            raise DataError(
                f"{settings.data}: no {split} prompt is of use ({dropped}); collect conversations with an "
                "answer, or raise prompt_len"
            )
        random.Random(0).shuffle(self._prompts)
        self.counts["rows"] = len(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, Any]:
        """`prompts` of (sample number, row id) pairs, and what replies need: tokenizer, stop, pad."""
        prompts = []
        for sample, row in rows:
            ids, record = self._prompts[row]
            prompts.append(Prompt(ids, record, f"{self.seed}/{record['id']}/{sample}"))
        facts = {"stop": self._stop, "pad": self._tokenizer.pad, "prompt_len": self.settings.prompt_len}
        return {"prompts": prompts, "tokenizer": self._tokenizer, **facts}

    def _prompt(self, record: dict[str, Any]):
        """(token ids, record), the last reply taken away; None for a record that is of no use."""
        self.counts["conversations"] += 1
        messages = record["prompt"] if "prompt" in record else record["messages"]
        while messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if self.settings.sources and record.get("source") not in self.settings.sources:
            self.counts["dropped_other_source"] += 1
        elif any(record.get(key) is None for key in self.settings.needs):
            self.counts["dropped_without_answer"] += 1
        elif not messages:
            self.counts["dropped_without_prompt"] += 1
        else:
            ids, _ = chat.render(self._tokenizer, messages, open_reply=True)
            if len(ids) <= self.settings.prompt_len:
                self.counts["tokens"] += len(ids)
                return ids, record
            self.counts["dropped_too_long"] += 1
        return None
