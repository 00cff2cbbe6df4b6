"""More pieces for a model: old ids and logits are what they were, new rows start from what they replace."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from sentencepiece import sentencepiece_model_pb2 as protobuf

from llmkit import manifest, verbs
from llmkit.engine.start import Start
from llmkit.errors import ConfigError
from llmkit.models.hf import importing
from llmkit.opened import open_model
from llmkit.tokenizer import check, train
from llmkit.tokenizer import extend as pieces
from llmkit.tokenizer.vocabulary import Tokenizer
from llmkit.verbs import Options
from tests.nets import random_encoder, random_net

LICENCE = (Path(__file__).parents[1] / "LICENSE").read_text()
ADDED = {"tokens": ["<|tool|>", "<|data|>"], "pieces": [" derivative", "Contribution"]}


def ran(net, out, tokenizer_dir):
    importing.save(net, out, tokenizer_dir, {"sources": {"test": {"licence": "CC0"}}})
    return out


def extended(ckpt, out, **given):
    verbs.perform("tokenizer.extend", {}, {"ckpt": str(ckpt), "out": str(out), **given}, Options())
    return out


NETS = {
    "untied": lambda: random_net(tie=False),
    "tied": lambda: random_net(tie=True),
    "masked": lambda: random_encoder(tie=True),
    "reward": lambda: random_net(head="score"),
    "padded": lambda: random_net(tie=False, vocab_size=403),
}


@pytest.mark.parametrize("name", NETS)
def test_old_ids_and_logits_are_unchanged_and_new_rows_are_means(name, tmp_path, tokenizer_dir):
    before = NETS[name]()
    old = Tokenizer.load(tokenizer_dir)
    out = extended(ran(before, tmp_path / "run", tokenizer_dir), tmp_path / "more", **ADDED)
    opened = open_model(out)
    new, net = opened.tokenizer, opened.net
    assert (old.vocab_size, new.vocab_size, net.settings.vocab_size) == (400, 404, 404)
    text = LICENCE[:700].replace(" derivative", "").replace("Contribution", "")
    ids = old.encode(text)
    assert new.encode(text) == ids
    rows = torch.tensor([ids[:120]])
    with torch.no_grad():
        one, other = before.hidden(rows), net.hidden(rows)
        assert torch.equal(one, other)
        if name == "reward":
            assert torch.equal(before.scores(rows), net.scores(rows))
        else:
            width = before.settings.vocab_size
            torch.testing.assert_close(
                net.logits(other)[..., :width][..., :400], before.logits(one)[..., :400]
            )
    spelt = {402: old.encode(" derivative"), 403: old.encode("Contribution")}
    state, was = net.state_dict(), before.state_dict()
    grew = [key for key in state if state[key].shape[:1] == (404,)]
    assert len(grew) == {"untied": 2, "tied": 1, "masked": 2, "reward": 1, "padded": 2}[name]
    for key in grew:
        trained = was[key][:400]
        assert torch.equal(state[key][:400], trained)
        for i, source in spelt.items():
            torch.testing.assert_close(state[key][i], trained[source].mean(0))
        for i in (400, 401):
            torch.testing.assert_close(state[key][i], trained.mean(0))


def test_new_pieces_are_used_and_typed_control_tokens_are_text(tmp_path, tokenizer_dir):
    out = extended(ran(random_net(), tmp_path / "run", tokenizer_dir), tmp_path / "more", **ADDED)
    tokenizer = open_model(out).tokenizer
    ids = tokenizer.encode("a derivative Contribution <|tool|>")
    assert ids.count(402) == ids.count(403) == 1
    assert not {400, 401} & set(ids)
    assert tokenizer.decode(ids) == "a derivative Contribution <|tool|>"
    assert tokenizer.specials["<|tool|>"] == 400
    assert check.prove(tokenizer.folder)["mismatches"] == 0
    assert tokenizer.piece_bytes()[400:].tolist() == [0, 0, 11, 12]


@pytest.mark.slow
def test_an_extended_model_is_exported_and_started_from(tmp_path, tokenizer_dir):
    """Through the gate; transformers gives the logits that the model had before, on the old pieces."""
    from transformers import AutoModelForCausalLM

    (tmp_path / "text.txt").write_text(LICENCE)
    before = random_net(tie=True)
    out = extended(ran(before, tmp_path / "run", tokenizer_dir), tmp_path / "more", **ADDED)
    given = {"ckpt": str(out), "out": str(tmp_path / "hub"), "heldout": str(tmp_path / "text.txt")}
    verbs.perform("export", {}, given, Options())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
    ids = torch.tensor([Tokenizer.load(tokenizer_dir).encode(LICENCE[:400])])
    with torch.no_grad():
        old = before.logits(before.hidden(ids))
        torch.testing.assert_close(theirs(ids).logits[..., :400], old, atol=5e-5, rtol=0)
    start = Start(str(out))
    assert start.model.vocab_size == 404
    assert start.lineage["tokenizer"] == manifest.fingerprint(out / "tokenizer")
    assert start.lineage["sources"] == {"test": {"licence": "CC0"}}
    assert manifest.read(out)["counts"] == {"pieces": 404, "added": 4}
    assert "out" not in yaml.safe_load((start.path / "recipe.yaml").read_text())["run"]


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    record = {"id": "1", "source": "licence", "text": LICENCE}
    for split in ("train", "heldout"):
        (folder / f"{split}.jsonl").write_text(json.dumps(record) + "\n")
    return folder


@pytest.mark.parametrize("model", ["bpe", "unigram", "byte_level", "char", "byte"])
def test_words_of_a_domain_become_pieces_of_every_kind_of_vocabulary(model, tmp_path, corpus_dir):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    size = {"vocab_size": 400, "at_most": True} if model != "byte" else {}
    train.work(train.TokenizerSpec(data=str(corpus_dir), model=model, check_lines=50, **size), folder)
    old = Tokenizer.load(folder)
    chosen = pieces.frequent(old, corpus_dir / "train.jsonl", 12)
    assert len(chosen) == 12
    assert all(LICENCE.count(word) > 1 and len(old.encode(word)) > 1 for word in chosen)
    given = {"domain": str(corpus_dir), "domain_pieces": 12, "tokens": ["<|new|>"], "chat": "chatml"}
    new = Tokenizer.load(extended(folder, tmp_path / "more", **given))
    assert new.vocab_size == old.vocab_size + 13 + 2
    assert list(new.specials.values())[-3:] == [old.vocab_size + i for i in range(3)]
    added = range(old.vocab_size + 3, new.vocab_size)
    assert [new.decode([i]) for i in added] == chosen
    ids, was = new.encode(LICENCE), old.encode(LICENCE)
    assert new.decode(ids) == LICENCE
    assert len(ids) < len(was)
    assert set(added) <= set(ids), "every one of them is used"
    expanded = [j for i in ids for j in (old.encode(new.decode([i])) if i in added else [i])]
    if model != "bpe":  # merges inside the words around them may differ
        assert expanded == was
    assert new.piece_bytes()[ids].sum() == len(LICENCE.encode())
    assert manifest.read(tmp_path / "more")["result"]["mismatches"] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to add"),
        ({"tokens": ["<s>"]}, "'<s>' is in the vocabulary already"),
        ({"pieces": [" the"]}, "' the' is in the vocabulary already"),
        ({"pieces": [" "]}, "an empty piece"),
        ({"domain_pieces": 3}, "domain: is needed"),
    ],
)
def test_what_cannot_be_added_is_named(given, message, tmp_path, tokenizer_dir):
    with pytest.raises(ConfigError, match=message):
        extended(tokenizer_dir, tmp_path / "more", **given)
    assert not (tmp_path / "more").exists()


def test_a_control_token_that_a_unigram_vocabulary_cannot_spell_is_refused(tmp_path, corpus_dir):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    train.work(train.TokenizerSpec(data=str(corpus_dir), model="unigram", vocab_size=400), folder)
    with pytest.raises(ConfigError, match="has a character without a piece"):
        extended(folder, tmp_path / "more", tokens=["\u27e8tool\u27e9"])


def test_a_piece_put_in_front_of_others_would_be_found(tmp_path, tokenizer_dir, monkeypatch):
    """The fault planted: ids move, and the text that the old and the new have in common shows it."""
    append = pieces._appended

    def moved(*given):
        model = protobuf.ModelProto.FromString(append(*given))
        model.pieces.insert(300, model.pieces.pop())
        return model.SerializeToString()

    monkeypatch.setattr(pieces, "_appended", moved)
    new = Tokenizer.load(extended(tokenizer_dir, tmp_path / "more", pieces=["Contribution"]))
    assert new.encode(LICENCE[-300:]) != Tokenizer.load(tokenizer_dir).encode(LICENCE[-300:])
