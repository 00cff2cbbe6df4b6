"""What a captioner writes of images, and how likely it finds texts: for evaluations and for `generate`."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmkit.data.captions import WORD
from llmkit.models.beam import search
from llmkit.models.generate import generate

ROWS = 64
"""Images at once; what is written of one does not depend on the others."""


def written(opened: Any, images: Tensor, max_new: int, beams: int = 1, **options) -> list[str]:
    """A caption of at most `max_new` tokens for each of `images` (N, C, Y, X) uint8; greedy by default.

    `options` are those of `llmkit.models.generate.stream`; with several `beams`, of `beam.search`.
    """
    net, tokenizer, found = opened.net, opened.tokenizer, []
    options |= {"stop": [tokenizer.eos], "start": [getattr(tokenizer, net.settings.start)]}
    for first in range(0, len(images), ROWS):
        part = images[first : first + ROWS]
        if beams > 1:
            found += search(net, part, max_new, beams=beams, **options)
        else:
            found += generate(net, part, max_new, keys=range(first, first + len(part)), **options)
    return [tokenizer.decode(ids) for ids in found]


@torch.no_grad()
def nll(net, data, images: Tensor) -> np.ndarray:
    """-log p of every caption of `data` (a `Captioned`), its end included, given `images`: (N,) nats."""
    device, found = next(net.parameters()).device, []
    for first in range(0, len(images), ROWS):
        rows = range(first, min(first + ROWS, len(images)))
        batch = data.batch([(row, row) for row in rows])
        tokens, segments, labels = (batch[key].to(device) for key in ("tokens", "segments", "labels"))
        source = images[first : first + ROWS].to(device)
        found.append(net.nll(tokens, segments, labels, source=source).sum(1))
    return torch.cat(found).double().cpu().numpy()


def word_f1(said: str, wanted: str) -> float:
    """2 P R / (P + R) of the words that both have, each as often as both have it; case is not looked at."""
    one, other = (Counter(WORD.findall(text.lower())) for text in (said, wanted))
    both = (one & other).total()
    return 2 * both / max(1, one.total() + other.total())
