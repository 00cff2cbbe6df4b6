"""Whether tunes that a net writes are music by their own notation: how many bars are as long as they must be.

    held-out tune ─► header (M:6/8, L:1/8, K:D) ─► the net ────────► notes ─┐
                 │                          └────► n-gram models ──► notes ─┼─► bars ─► figures
                 └────────────────────────────────────────────────► notes ─┘

A bar line stands where the lengths of the notes before it add up to the metre, so a net has to count over a
dozen tokens; that is what n-grams cannot do. All are drawn as they predict, without temperature.
"""

from typing import Any, Literal

import numpy as np

from llmkit.config import Field, Section
from llmkit.errors import DataError
from llmkit.eval import records, replies
from llmkit.eval.abc_notation import Bar, Tune, read, split
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.ngram import KneserNey
from llmkit.eval.statistics import bootstrap, keyed
from llmkit.log import say
from llmkit.registry import register

PART = 8
"""Bars of a part of a dance tune: as many in a row out of one training tune are a copy."""

CONTROLS = {1: "unigram", 4: "kn4"}
"""The orders of the n-gram models that write tunes too."""


@register("metric", "tunes")
class Tunes(Metric):
    """Tunes in ABC notation written after the headers of held-out ones, read bar by bar."""

    class Settings(Section):
        name: Literal["tunes"] = "tunes"
        data: str = Field(description="folder of collected tunes in ABC notation")
        limit: int = Field(200, ge=0, description="at most so many held-out headers, chosen by hash; 0: all")
        max_new: int | None = Field(
            None, gt=0, description="longest tune, tokens; default: what the context leaves after the headers"
        )
        temperature: float = Field(1.0, gt=0, description="of the net's draws; 1: as it predicts")
        controls: bool = Field(True, description="let n-gram models of the training tunes write some too")
        seed: int = Field(0, ge=0, description="seeds the draws")
        quick_values = {"limit": 8, "max_new": 32}

    headline = "bars_right"
    better = "higher"

    def measure(self, opened):
        s, tokenizer = self.settings, opened.tokenizer
        held = [r for r in records.heldout(s.data, ("text",), limit=s.limit) if all(split(r["text"]))]
        if not held:
            raise DataError(f"{s.data}: holds no tune with a header that ends with K:; collect tunes in ABC")
        headers = [split(record["text"])[0] for record in held]
        prompts = [[tokenizer.bos, *tokenizer.encode(header)] for header in headers]
        room = opened.net.settings.context - max(map(len, prompts))
        if room < 1:
            raise DataError(f"{s.data}: a header has more tokens than the net's context; collect less of it")
        most = min(room, s.max_new or room)
        train = records.documents(f"{s.data}/train.jsonl", 1 << 30)
        known = _Known([read(text) for text in train])

        def texts(written: list[list[int]]) -> list[str]:
            return [head + tokenizer.decode(ids) for head, ids in zip(headers, written, strict=True)]

        ids = replies.write(opened, prompts, most, [tokenizer.eos], temperature=s.temperature, seed=s.seed)
        mine = _read(texts(ids), ids, most)
        figures = {**_figures(mine, known), "max_new": most, "samples": len(held)}
        figures["finished"] = float(np.mean([len(one) < most for one in ids]))
        figures["real"] = _figures([read(record["text"]) for record in held], known)
        if s.controls:
            ngrams = _ngrams(tokenizer, train)
            for order, name in CONTROLS.items():
                draw = keyed(s.seed, name)
                control = [ngrams.sample(prompt, most, tokenizer.eos, draw, order) for prompt in prompts]
                figures[name] = _figures(_read(texts(control), control, most), known)
        beside = [name for name in (*CONTROLS.values(), "real") if name in figures]
        others = ", ".join(f"{name} {figures[name]['bars_right']:.1%}" for name in beside)
        say(f"tunes: {figures['bars_right']:.1%} of the bars are as long as the metre asks; {others}")
        rows = [
            {"id": record["id"], "value": share, "weight": count, "text": text}
            for record, text, (share, count) in zip(held, texts(ids), map(_share, mine), strict=True)
        ]
        return Measured(figures, [row for row in rows if row["weight"]])


def _read(texts: list[str], ids: list[list[int]], most: int) -> list[Tune]:
    """Written tunes; without the last bar of those that `most` tokens cut off."""
    tunes = [(read(text), len(one) < most) for text, one in zip(texts, ids, strict=True)]
    return [tune if whole else Tune(tune.key, tune.bars[:-1]) for tune, whole in tunes]


def _ngrams(tokenizer, texts: list[str]) -> KneserNey:
    """N-gram models of the tunes as the net reads them: each between BOS and EOS."""
    framed = [[tokenizer.bos, *ids, tokenizer.eos] for ids in tokenizer.encode_all(texts)]
    return KneserNey(np.concatenate(framed), tokenizer.vocab_size)


def _share(tune: Tune) -> tuple[float, int]:
    """Which share of a tune's bars is right, of how many that have to be of full length."""
    told = [bar.right for bar in tune.bars if bar.right is not None]
    return (float(np.mean(told)) if told else 0.0, len(told))


def _figures(tunes: list[Tune], known: "_Known") -> dict[str, Any]:
    """What is told of written tunes, and of real ones alike."""
    bars = sum(len(tune.bars) for tune in tunes)
    told = [(share, count) for share, count in map(_share, tunes) if count]
    right = bootstrap(*zip(*told, strict=True), key="tunes") if told else None
    runs = np.array([known.longest_run(tune.bars) for tune in tunes])
    return {
        "bars_right": right.value if right else 0.0,
        "ci95": [right.low, right.high] if right else [0.0, 0.0],
        "sound": float(np.mean([tune.sound for tune in tunes])),
        "all_right": float(np.mean([tune.sound and _share(tune)[0] == 1 for tune in tunes])),
        "ends_on_key": float(np.mean([_ends_on_key(tune) for tune in tunes])),
        "bars": bars / len(tunes),
        "upbeats": 1 - sum(count for _, count in told) / max(1, bars),
        "different": float(np.mean([_different(tune.bars) for tune in tunes])),
        "copied_bars": float(np.median(runs)),
        "copies": float(np.mean(runs >= PART)),
    }


def _ends_on_key(tune: Tune) -> bool:
    """Whether the last note is the one that the key is named after, in any octave."""
    notes = [pitch for bar in tune.bars for pitch, _ in bar.notes if pitch != "z"]
    return bool(notes) and notes[-1].strip("^_=,'").upper() == tune.key[:1].upper()


def _different(bars: list[Bar]) -> float:
    """Which share of the bars is not a repetition of one before."""
    return len({bar.notes for bar in bars}) / max(1, len(bars))


class _Known:
    """Where every bar of the training tunes stands."""

    def __init__(self, tunes: list[Tune]):
        self.places: dict[tuple, list[int]] = {}
        place = 0
        for tune in tunes:
            for bar in tune.bars:
                self.places.setdefault(bar.notes, []).append(place)
                place += 1
            place += 1  # no run goes on in the next tune

    def longest_run(self, bars: list[Bar]) -> int:
        """How many of `bars` in a row stand so in one training tune: the same notes, of the same lengths."""
        longest, runs = 0, {}
        for bar in bars:
            runs = {place: runs.get(place - 1, 0) + 1 for place in self.places.get(bar.notes, ())}
            longest = max([longest, *runs.values()])
        return longest
