"""Single replies that are good or bad, for KTO; collected pairs serve as well, each as a good and a bad one.

    tokens        [prompt reply] [prompt reply] ...           segment p + 1 is example p
    labels        the reply and its end marker only
    lent_tokens   [prompt another reply] ...                  the same prompts, answered with others' replies

`lent_` rows estimate the KL that KTO's loss is relative to. Whose reply is lent is decided here once, so the
loss does not depend on what shares a micro-batch.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from llmkit.config import Section
from llmkit.data.pack import IGNORED, best_fit_sides, lay_side
from llmkit.data.preflight import Checks
from llmkit.data.sets.chats import Chats
from llmkit.data.sets.pairs import learned, render_reply
from llmkit.registry import register

NEIGHBOURS, TRIES = 64, 8
"""How far another prompt is looked for, and how many of its replies are tried for one that fits."""


class Example(NamedTuple):
    """One reply to one prompt."""

    prompt: list[dict[str, str]]
    reply: str
    desirable: bool
    text: tuple[np.ndarray, np.ndarray]
    """(tokens, labels)"""


@register("dataset", "unpaired")
class Unpaired(Chats):
    """Rows of packed examples. `counts` says what became of the records."""

    class Settings(Section):
        name: Literal["unpaired"] = "unpaired"
        data: str = Field(description="directory made by `data collect kind=unpaired` or `kind=pairs`")
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        seq_len: int = Field(256, gt=1, description="tokens of a row; a longer example is dropped")
        pack: bool = Field(True, description="several examples in a row, which do not see each other")
        checks: Checks = Checks()
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 128}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        super().__init__(settings, split, "unpaired")
        paired = any("chosen" in record or "replies" in record for record in self._records)
        read = self._canonical("pairs" if paired else "unpaired")
        kept = (self._example(record, *one) for record in read for one in singles(record))
        self._examples = self._settled(kept, "examples", "example fits into")
        self._lent = [self._lend(i) for i in range(len(self._examples))]
        sizes = [(len(e.text[0]), len(lent[0])) for e, lent in zip(self._examples, self._lent, strict=True)]
        room = (self.seq_len, self.seq_len)
        self._rows = best_fit_sides(sizes, room) if settings.pack else [[i] for i in range(len(sizes))]
        self._per_row = max(map(len, self._rows))
        self.counts["rows"] = len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, Any]:
        """tokens, segments, labels and the same with `lent_` (B, T); valid, desirable (B, P)."""
        size = max(1, len(rows)), self._per_row
        valid, desirable = np.zeros(size, bool), np.zeros(size, bool)
        own, lent = [], []
        for b, (_, row) in enumerate(rows):
            examples = self._rows[row]
            valid[b, : len(examples)] = True
            desirable[b, : len(examples)] = [self._examples[i].desirable for i in examples]
            own.append([_document("", *self._examples[i].text) for i in examples])
            lent.append([_document("lent_", *self._lent[i]) for i in examples])
        sides = {}
        for prefix, laid in (("", own), ("lent_", lent)):
            fill = {f"{prefix}tokens": self._pad, f"{prefix}labels": IGNORED}
            sides |= lay_side(laid, f"{prefix}segments", fill, self.seq_len)
        return {**sides, "valid": torch.from_numpy(valid), "desirable": torch.from_numpy(desirable)}

    def _example(self, record, prompt, reply: str, desirable: bool) -> Example | None:
        self.counts["examples"] += 1
        flight = self.preflight
        if not flight.usable("pairs" if "chosen" in record else "unpaired", record):
            return None
        text = render_reply(self._tokenizer, prompt, reply)
        if not flight.rendered(record, text[0], learned(text[1])):
            return None
        if flight.found("too_long", record, len(text[0]) > self.seq_len):
            return None
        self.counts["desirable"] += desirable
        self.counts["tokens"] += len(text[0])
        self.counts["labels"] += int((text[1] != IGNORED).sum())
        return Example(prompt, reply, desirable, text)

    def _lend(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, labels) of example i's prompt with the reply of one that follows and has another prompt.

        Without any that fits, nothing is lent: one token without a label, whose log-ratio is 0.
        """
        mine = self._examples[i]
        n = len(self._examples)
        others = (self._examples[(i + k) % n] for k in range(1, min(n, NEIGHBOURS)))
        strangers = (other for other in others if other.prompt != mine.prompt)
        for other, _ in zip(strangers, range(TRIES), strict=False):
            text = render_reply(self._tokenizer, mine.prompt, other.reply)
            if len(text[0]) <= self.seq_len:
                return text
        self.counts["without_lent_reply"] += 1
        return mine.text[0][:1], np.full(1, IGNORED, np.int64)


def singles(record: dict[str, Any]) -> list[tuple[list[dict[str, str]], str, bool]]:
    """(prompt, reply, desirable) of an unpaired record, or both replies of a pair."""
    if "chosen" in record:
        return [(record["prompt"], record["chosen"], True), (record["prompt"], record["rejected"], False)]
    return [(record["prompt"], record["reply"], bool(record["desirable"]))]


def _document(prefix: str, tokens: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{prefix}tokens": tokens, f"{prefix}labels": labels}
