"""How well an encoder predicts text, each token from all others: pseudo-perplexity (Salazar et al. 2020).

    window   <s> t1 t2 ... tW </s>       row i is the window with the mask in place of ti, and predicts ti

One forward pass for every token of the text, so it is measured on a beginning of it.
"""

import math
from typing import Literal

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.eval import records, scoring
from llmkit.eval.metric import Measured, Metric
from llmkit.registry import register
from llmkit.tokenizer import special


@register("metric", "pseudo_perplexity")
class PseudoPerplexity(Metric):
    """exp of the mean negative pseudo-log-likelihood per token, eq. 3; for nets that see both sides."""

    class Settings(Section):
        name: Literal["pseudo_perplexity"] = "pseudo_perplexity"
        text: str = Field(description="raw held-out text file")
        max_tokens: int = Field(2000, gt=0, description="measure only the first tokens of the text")
        window: int | None = Field(
            None, gt=0, description="tokens predicted in one window; default: what the net's context holds"
        )
        quick_values = {"max_tokens": 100}

    head = "masked"
    headline = "pseudo_nll"
    better = "lower"

    def measure(self, opened):
        s, tokenizer = self.settings, opened.tokenizer
        mask = special.find(tokenizer, special.MASK, "pseudo_perplexity")
        most = opened.net.settings.context - 2
        window = s.window or most
        if window > most:
            raise ConfigError(f"window: {window} and the two ends are more than the context; at most {most}")
        text = records.read_text(s.text)
        ids = np.array(tokenizer.encode(text[: 64 * s.max_tokens])[: s.max_tokens])
        parts = [ids[start : start + window] for start in range(0, len(ids), window)]
        nll = [pseudo_nll(opened.net, part, mask, tokenizer.bos, tokenizer.eos) for part in parts]
        sizes = tokenizer.piece_bytes()
        total = float(sum(part.sum() for part in nll))
        figures = {
            "pseudo_nll": total / len(ids),
            "pseudo_perplexity": math.exp(total / len(ids)),
            "pseudo_bits_per_byte": total / math.log(2) / int(sizes[ids].sum()),
            "tokens": len(ids),
            "window": window,
            "samples": len(parts),
            "text": s.text,
        }
        same = records.digest(ids.tobytes())  # windows of other tokens are never compared with these
        rows = [
            {"id": f"{same}-{i}", "value": float(part.mean()), "weight": len(part)}
            for i, part in enumerate(nll)
        ]
        return Measured(figures, rows)


@torch.inference_mode()
def pseudo_nll(net: torch.nn.Module, ids: np.ndarray, mask: int, bos: int, eos: int) -> np.ndarray:
    """Negative log-probability in nats of each of `ids` (W,) from all the others: (W,) float64."""
    device = next(net.parameters()).device
    size = len(ids)
    rows = np.tile(np.concatenate([[bos], ids, [eos]]), (size, 1))
    labels = np.full_like(rows, -100)
    place = np.arange(size)
    rows[place, place + 1], labels[place, place + 1] = mask, ids
    found, step = np.empty(size), max(1, scoring.BATCH_TOKENS // (size + 2))
    for start in range(0, size, step):
        tokens, targets = (torch.from_numpy(x[start : start + step]).to(device) for x in (rows, labels))
        found[start : start + step] = net.nll(tokens, None, targets).double().sum(1).cpu().numpy()
    return found
