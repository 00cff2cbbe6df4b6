"""What stands around a text, and between two, as the exported tokenizer puts it there.

bert   [CLS] a [SEP] b [SEP]        t5   a </s> b </s>        llama   <s> a <s> b
"""

from typing import NamedTuple

from llmkit.tokenizer import export
from llmkit.tokenizer.vocabulary import Tokenizer


class Frame(NamedTuple):
    """Ids before and after a text."""

    before: list[int]
    after: list[int]

    def one(self, ids: list[int]) -> list[int]:
        """A text of `ids`, framed."""
        return [*self.before, *ids, *self.after]

    def two(self, first: list[int], second: list[int]) -> list[int]:
        """A pair of texts; the second one begins like the first only where no piece ends a text."""
        return [*self.one(first), *([] if self.after else self.before), *second, *self.after]

    def size(self, texts: int) -> int:
        """How many ids the frame of one text, or of two, adds."""
        return len(self.one([]) if texts == 1 else self.two([], []))


def of(tokenizer: Tokenizer) -> Frame:
    """The frame of `tokenizer`: its layout's, or what a foreign tokenizer.json adds to a text."""
    if (tokenizer.folder / "tokenizer.model").is_file():
        return Frame(*export.frame(tokenizer.folder))
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_file(str(tokenizer.folder / "tokenizer.json"))
    fast.no_padding()
    bare, framed = (fast.encode("a", add_special_tokens=added).ids for added in (False, True))
    starts = range(len(framed) - len(bare) + 1)
    at = next((i for i in starts if framed[i : i + len(bare)] == bare), 0)
    return Frame(framed[:at], framed[at + len(bare) :])
