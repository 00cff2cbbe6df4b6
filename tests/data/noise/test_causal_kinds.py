"""Prefixes and rearranged texts for decoders: what is seen, what is learned, and nothing lost."""

import numpy as np
import pytest

from llmkit.data.draws import keyed
from llmkit.data.noise.fim import FillInTheMiddle
from llmkit.data.noise.prefix import Prefix
from llmkit.errors import ConfigError
from llmkit.tokenizer.vocabulary import Tokenizer

IDS = np.arange(100, 120)


def test_a_prefix_is_seen_and_not_learned_and_the_rest_is_next_tokens(special):
    prefix = Prefix(Prefix.Settings(), special, 32)
    lengths = []
    for sample in range(400):
        piece = prefix(IDS, 7, keyed(1, sample, 0))
        seen = int(piece["prefix"].sum())
        lengths.append(seen)
        assert piece["prefix"].tolist() == [True] * seen + [False] * (20 - seen)
        assert piece["tokens"].tolist() == [7, *IDS[:-1]]
        assert piece["labels"].tolist() == [-100] * (seen - 1) + IDS[seen - 1 :].tolist()
    assert set(lengths) == set(range(1, 21))


@pytest.fixture
def marks(special):
    return [special.specials[f"<|fim_{name}|>"] for name in ("prefix", "suffix", "middle")]


def test_both_layouts_are_those_of_the_paper(special, marks):
    fim = FillInTheMiddle(FillInTheMiddle.Settings(), special, 32)
    pre, suf, mid = marks
    parts = [1], [2, 3], [4]
    assert fim.arranged(*parts, False).tolist() == [special.bos, pre, 1, suf, 4, mid, 2, 3, special.eos]
    assert fim.arranged(*parts, True).tolist() == [special.bos, pre, suf, 4, mid, 1, 2, 3, special.eos]


def test_the_share_of_rearranged_texts_and_of_suffix_first_is_as_set_and_no_token_is_lost(special, marks):
    fim = FillInTheMiddle(FillInTheMiddle.Settings(rate=0.5, spm_frac=0.25), special, 32)
    kinds = {"plain": 0, "psm": 0, "spm": 0}
    for sample in range(2000):
        piece = fim(IDS, 7, keyed(1, sample, 0))
        text = np.concatenate([piece["tokens"][:1], piece["labels"]])
        assert piece["tokens"].tolist() == text[:-1].tolist()
        assert sorted(set(text.tolist()) & set(IDS.tolist())) == IDS.tolist()
        assert len(piece["tokens"]) <= fim.size(20)[0]
        kind = "plain" if text[1] != marks[0] else "spm" if text[2] == marks[1] else "psm"
        kinds[kind] += 1
    assert kinds["plain"] == pytest.approx(1000, abs=110)
    # an empty prefix makes PSM look like SPM: 1 in 21 of them nearly always
    assert kinds["spm"] == pytest.approx(250 + 750 * 2 / 22, abs=90)


def test_a_tokenizer_without_the_marks_is_refused(tokenizer_dir):
    with pytest.raises(ConfigError, match=r"data.noise: .* has no piece <\|fim_prefix\|>"):
        FillInTheMiddle(FillInTheMiddle.Settings(), Tokenizer.load(tokenizer_dir), 32)
