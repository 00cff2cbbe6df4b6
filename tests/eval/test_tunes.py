"""The tunes metric on a world of tunes whose bars are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from llmkit import registry
from llmkit.data.sources.tunes import headed
from llmkit.eval import replies
from llmkit.eval.abc_notation import read
from llmkit.eval.metrics.tunes import Tunes, _Known

HEAD = "X:1\nM:2/4\nL:1/8\nK:D\n"


class Letters:
    """A tokenizer of characters."""

    bos, eos, vocab_size = 1, 2, 128

    def encode(self, text):
        return [ord(c) for c in text]

    def encode_all(self, texts):
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i > 2)


@pytest.fixture
def tunes(tmp_path):
    """A folder of 40 tunes to learn from and 12 held out, all of right bars."""
    draw = np.random.default_rng(0)
    for name, count in (("train", 40), ("heldout", 12)):
        with open(tmp_path / f"{name}.jsonl", "w") as file:
            for i in range(count):
                bars = ["".join(draw.choice(list("ABcdef"), 4)) for _ in range(12)]
                text = HEAD.replace("X:1", f"X:{i}") + "|".join(bars) + "|D4|]"
                file.write(json.dumps({"id": f"{name}{i}", "source": "t", "text": text}) + "\n")
    return tmp_path


def measured(tunes, monkeypatch, written, **settings):
    """The figures where a net of 200 tokens of context writes `written`, a text for each prompt."""
    tokenizer = Letters()
    net = SimpleNamespace(settings=SimpleNamespace(context=200))
    asked = []

    def write(opened, prompts, most, stop, **options):
        asked.extend(tokenizer.decode(prompt) for prompt in prompts)
        return [tokenizer.encode(written)[:most] for _ in prompts]

    monkeypatch.setattr(replies, "write", write)
    opened = SimpleNamespace(tokenizer=tokenizer, net=net)
    found = Tunes(Tunes.Settings(data=str(tunes), **settings)).measure(opened)
    assert all(read(prompt).key == "D" and not read(prompt).bars for prompt in asked), (
        "headers alone are given"
    )
    return found


def test_bars_are_counted_over_all_tunes_and_beside_real_ones_and_n_grams(tunes, monkeypatch):
    found = measured(tunes, monkeypatch, "A|ABcd|ABc|ABcd|ABcd|A3:|")
    figures = found.figures
    assert figures["bars_right"] == 0.75
    assert figures["upbeats"] == pytest.approx(1 / 3)
    assert figures["sound"] == figures["finished"] == 1
    assert figures["all_right"] == figures["ends_on_key"] == 0
    assert figures["different"] == pytest.approx(4 / 6)
    assert {key: figures["real"][key] for key in ("bars_right", "all_right", "ends_on_key")} == {
        "bars_right": 1, "all_right": 1, "ends_on_key": 1,
    }  # fmt: skip
    assert 0 <= figures["unigram"]["bars_right"] < 0.3
    assert figures["unigram"]["bars_right"] < figures["kn4"]["bars_right"] < 1
    total = sum(row["value"] * row["weight"] for row in found.rows) / sum(row["weight"] for row in found.rows)
    assert total == figures["bars_right"]
    assert len(found.rows) == figures["samples"] == 12
    assert measured(tunes, monkeypatch, "A|ABcd|ABc|ABcd|ABcd|A3:|").figures == figures


def test_the_last_bar_of_a_tune_that_was_cut_off_is_not_held_against_it(tunes, monkeypatch):
    found = measured(tunes, monkeypatch, "ABcd|ABcd|ABc(3de", max_new=14, controls=False).figures
    assert (found["bars_right"], found["sound"], found["finished"]) == (1, 1, 0)
    found = measured(tunes, monkeypatch, "ABcd|ABcd|ABc(3de", max_new=100, controls=False).figures
    assert found["bars_right"] == pytest.approx(2 / 3)
    assert (found["sound"], found["finished"]) == (0, 1)
    assert "kn4" not in found


def test_a_net_that_writes_nothing_has_no_bar_right(tunes, monkeypatch):
    found = measured(tunes, monkeypatch, "", controls=False)
    assert found.figures["bars_right"] == found.figures["sound"] == found.figures["bars"] == 0
    assert found.rows == []


def test_a_copied_tune_is_told_from_a_new_one(tunes, monkeypatch):
    text = json.loads((tunes / "train.jsonl").open().readline())["text"].removeprefix(
        "X:0\nM:2/4\nL:1/8\nK:D\n"
    )
    copied = measured(tunes, monkeypatch, text, controls=False).figures
    assert (copied["copied_bars"], copied["copies"]) == (13, 1)
    assert copied["real"]["copied_bars"] < 4


def test_the_longest_run_is_found_within_one_tune_only():
    known = _Known([read(HEAD + "A4|B4|c4|d4|A4|B4|d4|"), read(HEAD + "e4|f4|")])

    def run(notes):
        return known.longest_run(read(HEAD + notes).bars)

    assert run("A4|B4|c4|d4|") == 4
    assert run("g4|A2A2|c4|d4|A4|c4|") == 3
    assert run("B4|d4|e4|f4|") == 2, "d4 ends the first tune and e4 begins the second"
    assert run("a4|") == 0


def test_the_source_keeps_the_fields_that_are_named_and_all_notes():
    tune = "X:3\nT:Name\nM:C\nZ:someone\nL:1/8\nK:D\nP:A\nAB|\nT:Part\ncd|\nK:G\nef|"
    assert headed(tune, "XLM") == "X:3\nM:C\nL:1/8\nK:D\nP:A\nAB|\nT:Part\ncd|\nK:G\nef|"


def test_the_metric_is_registered():
    assert registry.find("metric", "tunes") is Tunes
