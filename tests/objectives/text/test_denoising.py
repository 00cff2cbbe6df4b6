"""Masked and denoising losses: means over what is labelled, accuracies counted by hand, and whole runs."""

import json
import math

import pytest
import torch

from llmkit import config
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import ConfigError
from llmkit.objectives.text.denoise import Denoise, whole_spans
from llmkit.objectives.text.guesses import guesses
from llmkit.objectives.text.masked import Masked
from tests.data.conftest import special, special_dir, special_shards  # noqa: F401 - fixtures
from tests.nets import wild
from tests.parity import problems


def net(make):
    """What a problem of the parity tests trains, with weights."""
    return wild(make())


SIDES = [(Masked, problems.encoder, problems.packed), (Denoise, problems.encdec, problems.sources)]


@pytest.mark.parametrize(("objective", "make", "batches"), SIDES)
def test_the_loss_is_a_mean_over_labels_and_evaluation_sees_the_same_and_what_was_right(
    objective, make, batches
):
    loss, model = objective(objective.Settings()), net(make)
    parts = [batches(0, 0, slot) for slot in (0, 1)]
    (phase,) = loss.phases
    total = {"tokens": sum(loss.count(phase, part)["tokens"] for part in parts)}
    shares, _ = zip(*(loss.loss(phase, {"model": model}, part, total) for part in parts), strict=True)
    with torch.no_grad():
        again, evaluated = zip(
            *(loss.loss(phase, {"model": model}, part, total) for part in parts), strict=True
        )
    assert float(sum(again)) == pytest.approx(sum(shares).item(), rel=1e-6)
    by_hand, right = [], 0
    for part in parts:
        more = {key: part[key] for key in ("source", "source_segments") if key in part}
        logits = model.logits(model.hidden(part["tokens"], part["segments"], **more)).log_softmax(-1)
        for place in (part["labels"] >= 0).nonzero().tolist():
            label = part["labels"][tuple(place)]
            by_hand.append(-logits[tuple(place)][label].item())
            right += int(logits[tuple(place)].argmax() == label)
    sums = {key: float(sum(s[key] for s in evaluated)) for key in evaluated[0]}
    figures = loss.metrics(phase, sums)
    assert figures["loss"] == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
    assert figures["accuracy"] == right / len(by_hand)
    if objective is Masked:
        assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))


def test_a_batch_without_labels_has_no_guesses():
    batch = problems.packed(1, 0, 1)
    assert (batch["labels"] == -100).all()
    nll, right = guesses(net(problems.encoder), batch)
    assert (len(nll), len(right)) == (0, 0)


def test_a_span_is_right_if_all_its_tokens_are_and_sentinels_do_not_count():
    batch = {
        "labels": torch.tensor([[9, 1, 2, 9, 3, 9, 5], [9, 1, -100, -100, -100, -100, -100]]),
        "segments": torch.tensor([[1, 1, 1, 1, 1, 2, 2], [1, 1, 0, 0, 0, 0, 0]]),
        "spans": torch.tensor([[0, 1, 1, 0, 2, 0, 1], [0, 1, 0, 0, 0, 0, 0]]),
    }
    right = torch.tensor([False, True, False, False, True, True, True, True, True])
    assert {k: int(v) for k, v in whole_spans(batch, right).items()} == {"spans": 4, "right_spans": 3}


ENCODER = {"name": "encoder", "width": 32, "layers": 2, "heads": 2, "context": 64}
T5 = {"name": "encdec", "style": "t5", "width": 32, "layers": 1, "heads": 2, "context": 64}
DECODER = {"name": "decoder", "width": 32, "layers": 1, "heads": 2, "context": 64}
RUNS = {
    "masked": ("masked", ENCODER, {"rate": 0.3}, {"loss", "perplexity", "accuracy"}),
    "span": ("denoise", T5, {}, {"loss", "accuracy", "span_accuracy"}),
    "infill": ("denoise", {**T5, "style": "bart"}, {}, {"loss", "accuracy"}),
    "fim": ("causal", DECODER, {}, {"loss", "bits_per_byte"}),
    "prefix": ("causal", DECODER, {}, {"loss"}),
}


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_longer_than_the_context_are_refused_before_any_data_is_read(mixed):
    data = {"name": "documents", "shards": "nowhere", "seq_len": 65}
    where = "data.seq_len"
    if mixed:
        data, where = {"name": "mixture", "parts": {"a": data}, "weights": {"a": 1}}, "data.parts.a.seq_len"
    tree = {"run": {"steps": 1}, "model": DECODER, "objective": {"name": "causal"}, "data": data}
    with pytest.raises(ConfigError, match=f"{where}: 65 is longer than model.context of 64"):
        config.resolve(TrainRecipe, tree)


def test_a_net_that_would_generate_from_another_piece_than_it_learned_from_is_refused(
    special_shards,  # noqa: F811
    tmp_path,
):
    tree = {
        "run": {"steps": 1, "out": str(tmp_path)},
        "model": {**T5, "style": "transformer"},
        "objective": {"name": "denoise"},
        "data": {"name": "documents", "shards": special_shards, "seq_len": 48, "noise": {"name": "infill"}},
    }
    with pytest.raises(ConfigError, match=r"model.start: pad, .* reads eos first; set model.start=eos"):
        run.train(config.resolve(TrainRecipe, tree), device="cpu")


@pytest.mark.parametrize("noise", RUNS)
def test_a_run_learns_and_reports(noise, special_shards, tmp_path):  # noqa: F811
    objective, model, settings, figures = RUNS[noise]
    tree = {
        "run": {"out": str(tmp_path / "run"), "steps": 12, "log_every": 1, "eval_every": 6, "ledger": True},
        "model": model,
        "objective": {"name": objective},
        "data": {
            "name": "documents",
            "shards": special_shards,
            "seq_len": 48,
            "noise": {"name": noise, **settings},
        },
        "batch": {"rows": 8, "micro_rows": 4},
        "optim": {"lr": 1e-2},
        "parallel": {"compile": "off", "precision": "fp32", "threads": 1},
    }
    facts = run.train(config.resolve(TrainRecipe, tree), device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert losses[-1] < losses[0] - 0.3
    heldout = {key.removeprefix("heldout/") for line in lines for key in line if key.startswith("heldout/")}
    assert heldout == figures
    assert facts["result"]["data"]["rows"] > 0
