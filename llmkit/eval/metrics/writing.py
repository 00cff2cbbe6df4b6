"""How close what a net writes comes to what people wrote: translations, summaries, short answers.

chrF and BLEU of all held-out texts are sacrebleu's, with the signature; ROUGE is rouge-score's, stemmed.
Beside them stands what copying the input would score: translations share names and numbers with it.
"""

from collections import Counter
from typing import Literal

import numpy as np

from llmkit.config import Field, Section
from llmkit.data.sets.task_records import read
from llmkit.data.sets.text_pairs import KINDS, sides_of
from llmkit.errors import ConfigError
from llmkit.eval import records, replies
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.statistics import bootstrap, paired
from llmkit.log import say
from llmkit.registry import register


@register("metric", "writing")
class Writing(Metric):
    """Mean chrF of a text, with intervals; chrF and BLEU of the corpus, ROUGE, exact matches; copying as
    baseline."""

    class Settings(Section):
        name: Literal["writing"] = "writing"
        data: str = Field(description="folder of collected text pairs, or questions; heldout.jsonl is used")
        beams: int = Field(1, ge=1, description="candidates of beam search; 1: greedy")
        max_new: int = Field(128, gt=0, description="longest text in tokens")
        limit: int = Field(500, ge=0, description="at most so many pairs, chosen by hash; 0: all")
        rouge: bool = Field(True, description="ROUGE too: 10 ms a summary")
        quick_values = {"limit": 16, "max_new": 8}

    head = "lm|seq2seq"
    headline = "sentence_chrf"

    def measure(self, opened):
        s = self.settings
        kind, _ = read(s.data, "heldout", KINDS)
        keys = ("input", "target") if kind == "text_pairs" else ("question", "answers")
        pairs = records.heldout(s.data, keys, limit=s.limit)
        read_, wanted = map(list, zip(*map(sides_of, pairs), strict=True))
        options = {"beams": s.beams} if s.beams > 1 else {}
        counts: Counter = Counter({replies.CUT: 0})
        said = replies.written(opened, read_, s.max_new, counts, **options)
        chrf, bleu = scores_of()
        each, copied = (
            np.array([chrf.sentence_score(a, [b]).score for a, b in zip(texts, wanted, strict=True)])
            for texts in (said, read_)
        )
        interval, margin = bootstrap(each, key="chrf"), paired(each, copied, key="copy")
        figures = {
            "sentence_chrf": interval.value,
            "ci95": [interval.low, interval.high],
            "above_copy": margin.value,
            "above_copy_ci95": [margin.low, margin.high],
            "chrf": chrf.corpus_score(said, [wanted]).score,
            "bleu": bleu.corpus_score(said, [wanted]).score,
            "copy_chrf": chrf.corpus_score(read_, [wanted]).score,
            "copy_bleu": bleu.corpus_score(read_, [wanted]).score,
            "exact_match": float(np.mean([a.strip() == b.strip() for a, b in zip(said, wanted)])),
            "signature": str(chrf.get_signature()),
            "samples": len(pairs),
            **counts,
            "beams": s.beams,
        }
        if s.rouge:
            figures |= rouge(said, wanted)
        say(
            f"writing: chrF {figures['chrf']:.1f} (copying the input {figures['copy_chrf']:.1f}), "
            f"BLEU {figures['bleu']:.1f} ({figures['copy_bleu']:.1f})"
        )
        rows = [
            {"id": r["id"], "value": float(v), "said": a, "wanted": b}
            for r, v, a, b in zip(pairs, each, said, wanted, strict=True)
        ]
        return Measured(figures, rows)


def scores_of():
    """sacrebleu's chrF2 (sentences smoothed as it does) and BLEU with its own tokenisation, 13a."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ConfigError("writing: needs sacrebleu; install it with pip install 'llmkit[tasks]'") from None
    return CHRF(), BLEU()


def rouge(said: list[str], wanted: list[str]) -> dict[str, float]:
    """Mean F of ROUGE-1, -2 and -L (Lin 2004)."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ConfigError("writing: needs rouge-score; install it with pip install 'llmkit[tasks]'") from None
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=True)
    found = [scorer.score(b, a) for a, b in zip(said, wanted, strict=True)]
    return {name: float(np.mean([one[name].fmeasure for one in found])) for name in names}
