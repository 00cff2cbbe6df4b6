"""Preference pairs for reward models and DPO: two replies to one prompt, packed side by side.

Pair p of a row is the segments 2p+1 and 2p+2:

    tokens    [prompt chosen] [prompt rejected] [prompt chosen] [prompt rejected]
    segments       1                 2                3                4
    labels         the reply and its end marker only, whatever else the template marks in the prompt
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from llmkit.config import Section
from llmkit.data.pack import IGNORED, best_fit, lay, shifted
from llmkit.data.preflight import Checks
from llmkit.data.sets.chats import Chats
from llmkit.errors import DataError
from llmkit.registry import register
from llmkit.tokenizer import chat
from llmkit.tokenizer.vocabulary import Tokenizer


def render_reply(tokenizer: Tokenizer, prompt: list[dict], reply: str) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, labels) of `prompt` answered with `reply`; only the reply is labelled.

    DataError where the template renders the prompt differently once it is answered.
    """
    opened, _ = chat.render(tokenizer, prompt, open_reply=True)
    ids, mask = chat.render(tokenizer, [*prompt, {"role": "assistant", "content": reply}])
    if ids[: len(opened)] != opened:
        raise DataError(
            "chat template: an answered prompt does not begin like the open one; mend the template"
        )
    return shifted(ids, [0] * len(opened) + mask[len(opened) :])


def learned(labels: np.ndarray) -> np.ndarray:
    """Which tokens are somebody's label: `labels` say it of the token that follows."""
    return np.concatenate([[False], labels[:-1] != IGNORED])


@register("dataset", "pairs")
class Pairs(Chats):
    """Rows of packed pairs; a pair is never split over two rows. `counts` says what became of the records."""

    class Settings(Section):
        name: Literal["pairs"] = "pairs"
        data: str = Field(description="directory made by `data collect kind=pairs`")
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        seq_len: int = Field(
            256, gt=1, description="tokens of a row; a pair whose two texts do not fit is dropped"
        )
        pack: bool = Field(True, description="several pairs in a row, which do not see each other")
        checks: Checks = Checks()
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 128}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        super().__init__(settings, split, "pairs")
        self._pairs = self._settled(map(self._pair, self._canonical("pairs")), "pairs", "pair fits into")
        lengths = [len(chosen[0]) + len(rejected[0]) for chosen, rejected, _ in self._pairs]
        self._rows = best_fit(lengths, self.seq_len) if settings.pack else [[i] for i in range(len(lengths))]
        self._pairs_per_row = max(map(len, self._rows))
        self.counts["rows"] = len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, Any]:
        """tokens, segments, labels (B, T); valid, margin (B, P); ends (B, P, 2). P: the most pairs of a row.

        `ends` are the positions of the last tokens of the two texts; 0 where there is no pair.
        """
        size = max(1, len(rows)), self._pairs_per_row
        valid, margin, ends = np.zeros(size, bool), np.zeros(size, np.float32), np.zeros((*size, 2), np.int64)
        laid = []
        for b, (_, row) in enumerate(rows):
            pairs = [self._pairs[i] for i in self._rows[row]]
            laid.append([reply for chosen, rejected, _ in pairs for reply in (chosen, rejected)])
            valid[b, : len(pairs)] = True
            margin[b, : len(pairs)] = [gap for _, _, gap in pairs]
            ends[b, : len(pairs)] = np.cumsum([len(tokens) for tokens, _ in laid[-1]]).reshape(-1, 2) - 1
        extra = {"valid": valid, "margin": margin, "ends": ends}
        return {**lay(laid, self.seq_len, self._pad), **{k: torch.from_numpy(v) for k, v in extra.items()}}

    def _pair(self, record: dict[str, Any]):
        """(chosen, rejected, margin), the replies as (tokens, labels); None for a pair that is of no use."""
        self.counts["pairs"] += 1
        flight = self.preflight
        if not flight.usable("pairs", record):
            return None
        chosen, rejected = (
            render_reply(self._tokenizer, record["prompt"], record[key]) for key in ("chosen", "rejected")
        )
        if flight.found("identical", record, np.array_equal(chosen[0], rejected[0])):
            return None
        if not all(flight.rendered(record, tokens, learned(labels)) for tokens, labels in (chosen, rejected)):
            return None
        if flight.found("too_long", record, len(chosen[0]) + len(rejected[0]) > self.seq_len):
            return None
        self.counts["with_margin"] += "margin" in record
        self.counts["tokens"] += len(chosen[0]) + len(rejected[0])
        self.counts["labels"] += sum(int((labels != IGNORED).sum()) for _, labels in (chosen, rejected))
        return chosen, rejected, float(record.get("margin", 0.0))
