"""Conversations for fine-tuning: rendered by the chat template, labelled on the replies, packed into rows."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data.pack import IGNORED, best_fit, lay, shifted
from llmkit.data.preflight import Checks
from llmkit.data.sets.chats import Chats
from llmkit.registry import register
from llmkit.tokenizer import chat


@register("dataset", "conversations")
class Conversations(Chats):
    """Rows of packed conversations. `counts` says what became of the records; every row has labels."""

    class Settings(Section):
        name: Literal["conversations"] = "conversations"
        data: str = Field(description="directory made by `data collect kind=conversations`")
        tokenizer: str = Field(description="directory made by `tokenizer train`")
        seq_len: int = Field(
            256, gt=1, description="tokens of a row; conversations end with the last reply that fits"
        )
        pack: bool = Field(True, description="several conversations in a row, which do not see each other")
        checks: Checks = Checks()
        quick_values: ClassVar[dict[str, Any]] = {"seq_len": 64}

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        super().__init__(settings, split, "conversations")
        labelled = map(self._labelled, self._canonical("conversations"))
        self._documents = self._settled(labelled, "conversations", "reply ends within")
        lengths = [len(tokens) for tokens, _ in self._documents]
        self._rows = best_fit(lengths, self.seq_len) if settings.pack else [[i] for i in range(len(lengths))]
        self.counts["rows"] = len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, Any]:
        """tokens, segments, labels, each (B, T), of (sample number, row id) pairs."""
        return lay(
            [[self._documents[i] for i in self._rows[row]] for _, row in rows], self.seq_len, self._pad
        )

    def _labelled(self, record: dict[str, Any]):
        """(tokens, labels) of one conversation, cut behind the last whole reply that fits; None if none does.

        The last token is not an input: nothing is predicted from it.
        """
        self.counts["conversations"] += 1
        flight = self.preflight
        if not flight.usable("conversations", record):
            return None
        ids, mask = chat.render(self._tokenizer, record["messages"])
        if not flight.rendered(record, ids, mask):
            return None
        end = last_reply_end(mask, self.seq_len + 1)
        self.counts["labels_cut"] += sum(mask[end:])
        if flight.found("too_long", record, not end) or flight.found("cut", record, any(mask[end:])):
            return None
        self.counts["cut"] += any(mask[end:])
        tokens, labels = shifted(ids[:end], mask[:end])
        self.counts["tokens"] += len(tokens) - 1
        self.counts["labels"] += int((labels != IGNORED).sum())
        return tokens[:-1], labels[:-1]


def last_reply_end(mask: list[int], limit: int) -> int:
    """One past the last token of the last reply that ends within `limit` tokens; 0 if none does."""
    ends = (
        i + 1 for i in range(min(limit, len(mask)) - 1, -1, -1) if mask[i] and not any(mask[i + 1 : i + 2])
    )
    return next(ends, 0)
