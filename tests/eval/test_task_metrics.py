"""What the suites of fine-tuned tasks say of nets that were trained for a moment."""

import json
import random

import numpy as np
import pytest

from llmkit.errors import ConfigError, DataError
from llmkit.eval.metrics.classification import Classification
from llmkit.eval.metrics.tagging import Tagging, entities, shared
from llmkit.eval.metrics.writing import Writing
from llmkit.eval.metrics.written_label import WrittenLabel, rule
from llmkit.opened import open_model
from tests.data.sets.conftest import collected
from tests.eval.conftest import WORDS, train
from tests.eval.conftest import _recipe as recipe

TRUTH = [["B-x", "I-x", "O", "B-y"], ["O", "O"], ["B-x", "O", "I-y", "I-y"]]
SAID = [["B-x", "I-x", "O", "B-x"], ["O", "O"], ["B-x", "I-x", "B-y", "I-y"]]


def records(kind: str):
    """Sixty records of one kind, whose label, tags or target follow from the words."""
    draw = random.Random(3)
    for i in range(60):
        words = [*draw.choices(WORDS, k=5), str(i)]
        if kind == "labelled":
            yield {"id": f"{i}", "text": " ".join(words), "label": "war" if "peace" in words else "other"}
        elif kind == "tagged":
            yield {"id": f"{i}", "tokens": words, "tags": ["B-x" if w == "law" else "O" for w in words]}
        else:
            yield {"id": f"{i}", "input": " ".join(words), "target": words[0]}


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """(net, folder of its data) of an objective, from the world's language model."""

    def make(objective: str, kind: str, **data):
        root = tmp_path_factory.mktemp(objective)
        made = list(records(kind))
        folder = collected(root / "data", made[:40])
        (root / "data" / "heldout.jsonl").write_text(
            (root / "data" / "train.jsonl").read_text().replace('"id": "', '"id": "h')
        )
        dataset = {"name": kind, "data": folder, "tokenizer": str(world / "tokenizer"), "seq_len": 64}
        settings = recipe(
            root, "run", {"name": objective}, {**dataset, "overlap": "keep", **data}, str(world / "run")
        )
        train(settings)
        return root

    return make


def test_a_classifier_stands_beside_the_majority_rule(trained):
    root = trained("classify", "labelled")
    metric = Classification(Classification.Settings(data=str(root / "data"), overlap="keep"))
    opened = open_model(root / "run", "classify")
    assert opened.net.labels == ["other", "war"]
    measured = metric.measure(opened)
    made = {r["id"]: r["label"] for r in list(records("labelled"))[:40]}
    right = [made[row["id"].removeprefix("h")] == row["said"][0] for row in measured.rows]
    assert measured.figures["accuracy"] == pytest.approx(np.mean(right))
    assert measured.figures["accuracy"] == pytest.approx(np.mean([row["value"] for row in measured.rows]))
    most = max(list(made.values()).count(label) for label in opened.net.labels)
    assert measured.figures["majority"] == pytest.approx(most / 40)
    assert sum(found["texts"] for found in measured.figures["by_label"].values()) == 40
    with pytest.raises(DataError, match="held-out record h0 is among the training ones too"):
        Classification(Classification.Settings(data=str(root / "data"))).measure(opened)


def test_a_head_of_other_labels_is_not_taken_over_and_words_without_labels_are_refused(trained, world):
    root = trained("classify", "labelled")
    data = {
        "name": "labelled",
        "data": str(root / "data"),
        "tokenizer": str(world / "tokenizer"),
        "seq_len": 64,
    }
    data |= {"overlap": "keep", "labels": ["war", "other"]}
    with pytest.raises(ConfigError, match="ends in the labels other, war, not war, other"):
        train(recipe(root, "again", {"name": "classify"}, data, str(root / "run")))
    tokens = {"name": "tokens", "shards": str(world / "shards"), "seq_len": 48}
    with pytest.raises(ConfigError, match="data: tokens has no labels"):
        train(recipe(root, "none", {"name": "classify"}, tokens, str(world / "run")))


def test_a_tagger_stands_beside_the_most_frequent_tag_of_each_word(trained):
    root = trained("tag", "tagged")
    metric = Tagging(Tagging.Settings(data=str(root / "data"), overlap="keep"))
    measured = metric.measure(open_model(root / "run", "tag"))
    assert measured.figures["baseline_f1"] == measured.figures["baseline_accuracy"] == 1.0
    assert metric.headline == "f1"
    values, weights = ([row[key] for row in measured.rows] for key in ("value", "weight"))
    assert measured.figures["f1"] == pytest.approx(np.average(values, weights=weights))


def test_records_of_two_sources_with_one_id_are_measured_each_by_itself(trained):
    root = trained("tag", "tagged")
    once = json.loads((root / "data" / "heldout.jsonl").open().readline())
    again = {**once, "tokens": once["tokens"][:3], "tags": once["tags"][:3]}
    (root / "data" / "heldout.jsonl").write_text(json.dumps(once) + "\n" + json.dumps(again) + "\n")
    metric = Tagging(Tagging.Settings(data=str(root / "data"), overlap="keep"))
    measured = metric.measure(open_model(root / "run", "tag"))
    assert measured.figures["words"] == len(once["tokens"]) + 3
    assert {row["id"] for row in measured.rows} == {once["id"], f"{once['id']}#2"}


def test_a_mean_over_sentences_weighted_by_entities_is_the_f1_of_all():
    parts = [shared(truth, said) for truth, said in zip(TRUTH, SAID, strict=True)]
    values, weights = zip(*parts, strict=True)
    figures = entities(TRUTH, SAID)
    assert np.average(values, weights=weights) == pytest.approx(figures["f1"])
    assert figures["f1"] == pytest.approx(2 * 2 / (4 + 4))  # I-y after O begins an entity, as for conlleval
    assert figures["f1_strict"] == pytest.approx(2 * 1 / (3 + 4))  # strictly it is none


def test_a_writer_stands_beside_copying(trained):
    root = trained("seq2seq", "text_pairs", net="decoder")
    settings = Writing.Settings(data=str(root / "data"), limit=10, max_new=6, beams=2)
    metric = Writing(settings)
    measured = metric.measure(open_model(root / "run", "lm|seq2seq"))
    assert measured.figures["sentence_chrf"] == pytest.approx(np.mean([r["value"] for r in measured.rows]))
    assert 0 <= measured.figures["chrf"] <= 100
    assert 0 < measured.figures["copy_chrf"] < 100
    assert measured.figures["signature"].startswith("nrefs:1|case:mixed|eff:yes")
    assert {"rouge1", "rouge2", "rougeL", "bleu", "exact_match"} <= measured.figures.keys()


def test_a_label_that_is_written_counts_if_it_is_the_right_one_to_the_letter(trained, monkeypatch):
    root = trained("seq2seq", "labelled", name="text_pairs", net="decoder")
    metric = WrittenLabel(WrittenLabel.Settings(data=str(root / "data"), limit=0, max_new=4))
    opened = open_model(root / "run", "lm|seq2seq")
    measured = metric.measure(opened)
    assert measured.figures["accuracy"] == np.mean([row["said"] == row["wanted"] for row in measured.rows])
    wanted = [row["wanted"] for row in measured.rows]
    assert measured.figures["rule"] == max(wanted.count(label) for label in set(wanted)) / 40
    said = {row["id"]: row["wanted"] for row in measured.rows} | {"h0": "wars", "h1": " "}
    monkeypatch.setattr("llmkit.eval.replies.written", lambda *_: [said[row["id"]] for row in measured.rows])
    assert metric.measure(opened).figures["accuracy"] == pytest.approx(38 / 40)
    assert metric.measure(opened).figures["is_a_label"] == pytest.approx(38 / 40)


def test_the_rule_without_a_net_is_the_most_frequent_label_of_the_same_word():
    known = [{"text": "", "pair": w, "label": t} for w, t in (("run", "vb"), ("run", "vb"), ("run", "nn"))]
    known += [{"text": "", "pair": "dog", "label": "nn"}] * 3
    asked = [{"text": "", "pair": "run"}, {"text": "", "pair": "cat"}]
    assert rule(known, asked) == ["vb", "nn"]
