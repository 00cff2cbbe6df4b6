"""How well a net predicts raw text: bits per byte and perplexities, beside compressors and classical models.

    text ─► one string of ids: BOS t1 t2 ... tN ─► disjoint windows of W targets, each with one token of carry
            inputs  BOS t1 .. tW-1 │ tW ..          (lm-eval's rolling log-likelihood, stride = window)
            targets t1  t2 .. tW   │ tW+1 ..

Bits per byte is the sum of all tokens' negative log-likelihoods / ln 2 / the raw bytes of the file, so it
compares across tokenizers. Nothing is averaged before the end, and only one batch of windows is in memory
at a time. Of a .jsonl every document is such a string of its own: right where documents are short, since a
net that reads each behind a BOS has never seen one follow another.
"""

import math
import sys
from typing import Literal

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.eval import compressors, hmm, records, scoring
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.ngram import KneserNey
from llmkit.eval.statistics import bootstrap
from llmkit.registry import register

BLOCK_BYTES = 4096
"""Samples are blocks of the raw text, so that nets with different tokenizers can be paired."""


@register("metric", "bits_per_byte")
class BitsPerByte(Metric):
    """Compression of held-out text by a causal net."""

    class Settings(Section):
        name: Literal["bits_per_byte"] = "bits_per_byte"
        text: str = Field(
            description="raw held-out text file, or a .jsonl of documents that are predicted one by one"
        )
        window: int | None = Field(
            None, gt=1, description="targets of a window, in tokens; default: the net's context"
        )
        baselines: bool = Field(
            False, description="measure compressors and n-gram models on the same text too"
        )
        train_text: str | None = Field(
            None, description="what baselines may see: a collected train.jsonl, or a text file"
        )
        baseline_mib: int = Field(
            16, gt=0, description="at most so many MiB of train_text are shown to the baselines"
        )
        hmm_states: int = Field(
            0, ge=0, description="states of a hidden Markov model among the baselines; 0: none"
        )
        max_bytes: int | None = Field(
            None, gt=0, description="measure only the first bytes of the text; default: all"
        )
        quick_values = {"max_bytes": 20_000, "baseline_mib": 1}

    headline = "bits_per_byte"
    better = "lower"

    def measure(self, opened):
        s = self.settings
        if s.baselines and not s.train_text:
            raise ConfigError("train_text: the baselines need the training text; set it, or baselines=false")
        texts = self._texts()
        ids = [np.array([opened.tokenizer.bos, *one]) for one in opened.tokenizer.encode_all(texts)]
        window = s.window or opened.net.settings.context
        nll = np.concatenate([window_nll(opened.net, one, window) for one in ids])
        pieces = opened.tokenizer.piece_bytes()[np.concatenate([one[1:] for one in ids])]
        text, size = "\n\n".join(texts), sum(len(one.encode()) for one in texts)
        rows = blocks(nll, pieces, records.digest(text.encode()))
        interval = bootstrap(*zip(*((row["value"], row["weight"]) for row in rows), strict=True), key=s.text)
        figures = {
            **perplexities(float(nll.sum()), len(nll), len(text.split()), size),
            "ci95": [interval.low, interval.high],
            "window": window,
            "stride": window,
            "samples": len(rows),
            "text": s.text,
        }
        if s.baselines:
            figures |= self._baselines(opened.tokenizer, text, size, ids, figures["bits_per_byte"])
        return Measured(figures, rows)

    def _texts(self) -> list[str]:
        """The texts that are predicted, each for itself: of a text file the one."""
        s = self.settings
        if s.text.endswith(".jsonl"):
            return records.documents(s.text, s.max_bytes or sys.maxsize)
        text = records.read_text(s.text)
        return [text.encode()[: s.max_bytes].decode(errors="ignore")]

    def _baselines(self, tokenizer, text: str, size: int, ids: list[np.ndarray], model: float) -> dict:
        """Bits per byte of each baseline, after the same training text, and which of them the net beats."""
        shown = records.documents(self.settings.train_text, self.settings.baseline_mib << 20)
        raw = "\n\n".join(shown).encode()
        bits = {name: 8 * n / size for name, n in compressors.conditional_bytes(text.encode(), raw).items()}
        alone = self.settings.text.endswith(".jsonl")
        before, after = ([tokenizer.bos], []) if alone else ([], tokenizer.encode("\n\n"))
        train = [] if alone else [tokenizer.bos]
        for document in tokenizer.encode_all(shown):
            train += before + document + after
        stream = np.concatenate(ids)
        told = stream[1:] != tokenizer.bos
        log2 = KneserNey(np.array(train), tokenizer.vocab_size).log2_probs(stream, start=1)
        for order, name in enumerate(("unigram", "kn2", "kn3", "kn4"), 1):
            bits[name] = float(-log2[order][told].sum() / size)
        states, more = self.settings.hmm_states, {}
        if states:
            hidden = hmm.fit(np.array(train), tokenizer.vocab_size, states)
            bits["hmm"] = float(-hidden.log2_probs(stream, start=1)[told].sum() / size)
            more = {"hmm": {"states": states, "rounds": len(hidden.rounds), "train_tokens": hidden.fitted_to}}
        return {
            "baseline": bits,
            "beats": [name for name, value in bits.items() if model < value],
            "loses_to": [name for name, value in bits.items() if model >= value],
            "baseline_train_bytes": len(raw),
            "baseline_train_tokens": len(train),
            **more,
        }


def perplexities(nll: float, tokens: int, words: int, size: int) -> dict[str, float]:
    """Corpus figures of a text of total `nll` nats; `words` and `size` (bytes) are those of the raw text.

    Each is exp of a sum over a sum, never a mean of perplexities (lm-eval's word_ppl, byte_ppl and bpb).
    """
    return {
        "bits_per_byte": nll / math.log(2) / size,
        "token_perplexity": math.exp(nll / tokens),
        "word_perplexity": math.exp(min(nll / max(1, words), 700)),
        "byte_perplexity": math.exp(nll / size),
        "nll": nll,
        "tokens": tokens,
        "words": words,
        "bytes": size,
    }


@torch.inference_mode()
def window_nll(net: torch.nn.Module, ids: np.ndarray, window: int) -> np.ndarray:
    """Negative log-likelihood in nats of ids[1:], (N,) float64, by disjoint windows of `window` targets."""
    device = next(net.parameters()).device
    count = len(ids) - 1
    window = min(window, max(1, count))
    rows = -(-count // window)
    inputs, labels = np.zeros((rows, window), np.int64), np.full((rows, window), -100, np.int64)
    inputs.flat[:count], labels.flat[:count] = ids[:-1], ids[1:]
    found, step = np.empty((rows, window)), max(1, scoring.BATCH_TOKENS // window)
    for start in range(0, rows, step):
        tokens, targets = (torch.from_numpy(x[start : start + step]).to(device) for x in (inputs, labels))
        found[start : start + step] = net.nll(tokens, None, targets).double().cpu().numpy()
    return found.flat[:count]


def blocks(nll: np.ndarray, piece_bytes: np.ndarray, text: str) -> list[dict]:
    """Bits per byte of each block of BLOCK_BYTES of the text; a token counts where it begins.

    A block's id holds the digest of the whole `text`: blocks of other texts are never compared with it.
    """
    begins = np.cumsum(piece_bytes) - piece_bytes
    block = begins // BLOCK_BYTES
    bits, size = np.bincount(block, nll) / math.log(2), np.bincount(block, piece_bytes)
    return [
        {"id": f"{text}-{i}", "value": b / n, "weight": n}
        for i, (b, n) in enumerate(zip(bits, size, strict=True))
        if n > 0
    ]
