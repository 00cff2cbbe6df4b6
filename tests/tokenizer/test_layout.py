"""Specs for encoders and encoder-decoders: the ids their families expect, here and in transformers."""

import pytest

from llmkit import config
from llmkit.errors import ExportRefused
from llmkit.tokenizer import check, export, special, train
from llmkit.tokenizer.check import NASTY
from llmkit.tokenizer.layout import LAYOUTS
from llmkit.tokenizer.vocabulary import Tokenizer


@pytest.fixture(scope="module", params=["t5_8k", "bert_8k"])
def made(request, tmp_path_factory, corpus):
    """(name of the spec, tokenizer directory of 2,000 pieces, what training it returned)."""
    out = tmp_path_factory.mktemp(request.param)
    said = {"data": str(corpus), "vocab_size": 2000}
    spec = config.load(train.TokenizerSpec, request.param, said, folder="tokenizer")
    return request.param, out, train.work(spec, out)


def test_the_special_pieces_have_their_familys_ids_and_frame_a_text(made):
    from transformers import AutoTokenizer

    name, folder, _ = made
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    body = ours.encode("two words")
    if name == "t5_8k":
        assert (ours.pad, ours.eos, theirs.unk_token_id, ours.bos) == (0, 1, 2, 3)
        found = special.sentinels(ours, 100, "here")
        assert found == theirs.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(100)])
        assert theirs("two words")["input_ids"] == [*body, 1]
        assert theirs("two words", "two words")["input_ids"] == [*body, 1, *body, 1]
    else:
        assert (ours.pad, theirs.unk_token_id, ours.bos, ours.eos) == (0, 1, 2, 3)
        assert special.find(ours, special.MASK, "here") == theirs.mask_token_id == 4
        assert (theirs.cls_token_id, theirs.sep_token_id) == (2, 3)
        assert theirs("two words")["input_ids"] == [2, *body, 3]
        assert theirs("two words", "two words")["input_ids"] == [2, *body, 3, *body, 3]
        assert theirs("[MASK]")["input_ids"] == [2, 4, 3]


def test_the_export_agrees_and_difficult_strings_survive(made):
    _, folder, result = made
    tokenizer = Tokenizer.load(folder)
    assert (result["mismatches"], result["counts"]["pieces"]) == (0, 2000)
    assert result["lines"] >= 1000
    lost = [text for text in NASTY if tokenizer.decode(tokenizer.encode(text)) != text]
    assert all("\u2581" in text for text in lost)
    controls = set(tokenizer.specials.values())
    assert not any(controls & set(tokenizer.encode(f"a {name} b")) for name in tokenizer.specials)


def test_the_frame_of_another_layout_is_found(made, monkeypatch):
    monkeypatch.setattr(export.layout, "of", lambda spec: LAYOUTS["llama"])
    with pytest.raises(ExportRefused, match="at token"):
        check.prove(made[1])
