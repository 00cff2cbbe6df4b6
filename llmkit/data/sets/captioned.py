"""Images with what is written of them, word for word: what a captioner looks at and learns to write.

batch   source (B, C, Y, X) uint8        tokens  <s> red heart       bytes (B,) of the caption's text
        tokens, segments, labels (B, T)  labels  red heart </s>
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from llmkit import manifest
from llmkit.config import Field
from llmkit.data import pictures
from llmkit.data.pack import IGNORED, lay_side
from llmkit.data.sets.images import Images
from llmkit.errors import DataError
from llmkit.log import warn
from llmkit.registry import register
from llmkit.tokenizer import learnt, special
from llmkit.tokenizer.vocabulary import Tokenizer


@register("dataset", "captioned")
class Captioned(Images):
    """One split of a set of images with captions, one caption in a row.

    `texts` are the captions and `origins` says which images belong together (all tones of an emoji), both in
    the order of `images`. `counts` says what became of the images: one whose caption is empty or does not fit
    is left out, not cut.
    """

    class Settings(Images.Settings):
        name: Literal["captioned"] = "captioned"  # type: ignore[assignment]
        captions: Literal[True] = Field(True, description="the set has them, or is refused")
        tokenizer: str | None = Field(
            None, description="directory of a tokenizer; default: one learnt from the training captions"
        )
        vocab_size: int = Field(1024, ge=300, description="pieces of one that is learnt, at most")
        seq_len: int = Field(
            32, gt=1, description="tokens of a caption, its end included; longer ones are left out"
        )
        blank: bool = Field(
            False, description="every image is black: a decoder that sees nothing, to compare with"
        )
        quick_values: ClassVar[dict[str, Any]] = {"rows": 256}

    uncaptioned = "take a set that has captions, or say in data.caption_column where they are"
    start = "bos"

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        super().__init__(settings, split, seed)
        self.seq_len = settings.seq_len
        layout = [settings.seq_len, settings.blank, self._tokenizer.fingerprint]
        self.fingerprint = manifest.digest([self.fingerprint, self.texts, *layout])

    def _tell(self, splits: dict[str, pictures.Pictures], split: str, chosen: np.ndarray) -> None:
        s, found = self.settings, splits[split]
        if s.tokenizer and s.vocab_size != type(s).model_fields["vocab_size"].default:
            warn("data.vocab_size: is read without data.tokenizer alone; it has no effect here")
        folder = s.tokenizer or learnt.folder(splits["train"].captions, s.vocab_size)
        self.tokenizer_dir, self._tokenizer = Path(folder), Tokenizer.load(folder)
        self.vocab_size, self._pad = self._tokenizer.vocab_size, self._tokenizer.pad
        bos, eos = (special.marker(self._tokenizer, which, "data.tokenizer") for which in ("bos", "eos"))
        texts = [found.captions[place].strip() for place in chosen]
        ids = self._tokenizer.encode_all(texts)
        kept = [i for i, one in enumerate(ids) if 0 < len(one) < s.seq_len]
        self.counts = {
            f"{split}_images": len(ids),
            "left_out_empty": sum(not one for one in ids),
            "left_out_too_long": sum(len(one) >= s.seq_len for one in ids),
        }
        if not kept:
            raise DataError(
                f"{s.source}: no {split} caption has 1 to {s.seq_len - 1} tokens; raise data.seq_len"
            )
        self.images, self.labels = self.images[kept], self.labels[kept]
        self.texts = tuple(texts[i] for i in kept)
        names = found.names or tuple(map(str, range(len(found.images))))
        self.origins = tuple(names[chosen[i]] for i in kept)
        self._items = [
            {"tokens": np.array([bos, *ids[i]], np.int64), "labels": np.array([*ids[i], eos], np.int64)}
            for i in kept
        ]

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """The rows' images and captions; of no rows at all, one black image and padding.

        T is the longest caption's length, up to the next multiple of 8: few shapes, little padding.
        """
        image = super().batch(rows)["image"]
        laid = [[self._items[row]] for _, row in rows]
        fill = {"tokens": self._pad, "labels": IGNORED}
        longest = max((len(item["tokens"]) for (item,) in laid), default=1)
        return {
            "source": torch.zeros_like(image) if self.settings.blank else image,
            "bytes": torch.tensor([len(self.texts[row].encode()) for _, row in rows] or [0]),
            **lay_side(laid, "segments", fill, -(-longest // 8) * 8),
        }
