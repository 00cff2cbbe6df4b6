"""Pseudo-perplexity against its definition, one token at a time."""

import math
from types import SimpleNamespace

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.eval import scoring
from llmkit.eval.metrics.pseudo_perplexity import PseudoPerplexity
from llmkit.models import heads
from llmkit.models.encoder import Encoder, Settings
from tests.data.conftest import special, special_dir  # noqa: F401 - fixtures
from tests.nets import wild

TEXT = "You may use the work as it is, and you may add to the work. " * 3


@pytest.fixture
def opened(special):  # noqa: F811
    sizes = {"width": 32, "layers": 2, "heads": 2, "vocab_size": special.vocab_size, "context": 26}
    return SimpleNamespace(
        net=wild(Encoder(Settings(style="bert", init_std=0.2, **sizes))), tokenizer=special
    )


def measured(opened, tmp_path, **settings):
    (tmp_path / "text.txt").write_text(TEXT)
    return PseudoPerplexity(PseudoPerplexity.Settings(text=str(tmp_path / "text.txt"), **settings)).measure(
        opened
    )


@torch.no_grad()
def test_every_token_is_predicted_from_all_the_others_of_its_window(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 70)  # two rows at a time
    found, tokenizer = measured(opened, tmp_path, max_tokens=40), opened.tokenizer
    ids, total = tokenizer.encode(TEXT)[:40], 0.0
    for start in (0, 24):
        window = ids[start : start + 24]
        for i, token in enumerate(window):
            row = [tokenizer.bos, *window[:i], tokenizer.specials["[MASK]"], *window[i + 1 :], tokenizer.eos]
            logits = opened.net.logits(opened.net.hidden(torch.tensor([row])))[0, i + 1]
            total -= logits.log_softmax(-1)[token].item()
    assert found.figures["pseudo_perplexity"] == pytest.approx(math.exp(total / 40), rel=1e-4)
    weighted = sum(row["value"] * row["weight"] for row in found.rows)
    assert weighted == pytest.approx(total, rel=1e-4)


def test_it_asks_for_what_an_encoder_ends_in(opened):
    assert PseudoPerplexity.head == heads.kind(opened.net)


def test_a_window_that_does_not_fit_is_refused(opened, tmp_path):
    with pytest.raises(ConfigError, match="window: 25 .* at most 24"):
        measured(opened, tmp_path, window=25)
