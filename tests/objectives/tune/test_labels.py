"""Classification and tagging: losses as torch defines them, figures as scikit-learn counts them."""

import pytest
import torch
from sklearn import metrics

from llmkit.objectives.phase import add
from llmkit.objectives.tune.classify import Classify
from llmkit.objectives.tune.tag import Tag

L = 4


class Given(torch.nn.Module):
    """A net whose logits are what it is given; the weight is 1."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.scale = logits, torch.nn.Parameter(torch.ones(()))

    def label_logits(self, tokens, segments, starts=None, ends=None):
        return self.logits[tokens[:, 0]] * self.scale


def classified(several: bool):
    """Seven rows of three texts, of which two are not there -> (objective, net, batch)."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 3, L, generator=draw)
    label = torch.randint(L, (7, 3), generator=draw)
    if several:
        label = (torch.rand(7, 3, L, generator=draw) < 0.4).float()
    valid = torch.ones(7, 3, dtype=torch.bool)
    valid[2, 2] = valid[6, 1] = False
    where = torch.zeros(7, 3, dtype=torch.int64)
    batch = {"tokens": torch.arange(7)[:, None], "segments": torch.ones(7, 1), "starts": where, "ends": where}
    objective = Classify(Classify.Settings(labels=list("abcd"), several=several))
    return objective, Given(logits), {**batch, "valid": valid, "label": label}


def figures(objective, net, parts):
    """Loss and figures of `parts` as the engine puts them together: every part alone, sums added up."""
    (phase,) = objective.phases
    total = {key: float(n) for key, n in add(objective.count(phase, part) for part in parts).items()}
    with torch.no_grad():
        shares, seen = zip(*(objective.loss(phase, {"model": net}, part, total) for part in parts))
    return float(sum(shares)), objective.metrics(phase, {k: float(v) for k, v in add(seen).items()})


def rows(batch, *chosen):
    return [{key: value[list(some)] for key, value in batch.items()} for some in chosen]


@pytest.mark.parametrize("several", [False, True])
def test_a_loss_is_the_mean_over_all_texts_however_they_are_dealt_out(several):
    objective, net, batch = classified(several)
    logits, truth = net.logits[batch["valid"]], batch["label"][batch["valid"]]
    loss = (
        torch.nn.functional.binary_cross_entropy_with_logits if several else torch.nn.functional.cross_entropy
    )
    expected = loss(logits, truth).item()
    for parts in ([range(7)], [[0, 1, 2, 3, 4], [5], [6]]):
        share, found = figures(objective, net, rows(batch, *parts))
        assert share == pytest.approx(expected, abs=1e-6)
        assert found["loss"] == pytest.approx(expected, abs=1e-6)


def test_figures_of_one_label_are_those_of_scikit_learn():
    objective, net, batch = classified(several=False)
    said, truth = net.logits[batch["valid"]].argmax(-1), batch["label"][batch["valid"]]
    _, found = figures(objective, net, rows(batch, [0, 1, 2, 3], [4], [5, 6]))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, said))


def test_figures_of_several_labels_are_those_of_scikit_learn():
    objective, net, batch = classified(several=True)
    said, truth = net.logits[batch["valid"]] > 0, batch["label"][batch["valid"]] > 0
    _, found = figures(objective, net, rows(batch, [0, 1, 2, 3], [4], [5, 6]))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="micro"))
    assert "mcc" not in found


def test_a_class_that_nobody_says_or_is_does_not_count():
    objective, net, batch = classified(several=False)
    net.logits[..., 3] = -9.0
    batch["label"] = batch["label"].clamp(max=2)
    said, truth = net.logits[batch["valid"]].argmax(-1), batch["label"][batch["valid"]]
    _, found = figures(objective, net, [batch])
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))


def test_a_mean_of_means_would_be_another_number():
    """The trap that sums avoid: batches of different sizes."""
    objective, net, batch = classified(several=False)
    parts = rows(batch, [0, 1, 2, 3], [4], [5, 6])
    _, whole = figures(objective, net, parts)
    each = [figures(objective, net, [part])[1]["mcc"] for part in parts]
    assert abs(sum(each) / 3 - whole["mcc"]) > 0.01


def test_words_alone_are_tagged_and_counted():
    draw = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(5, 6, L, generator=draw), torch.randint(L, (5, 6), generator=draw)
    labels[torch.rand(5, 6, generator=draw) < 0.4] = -100
    labels[3] = -100
    batch = {"tokens": torch.arange(5)[:, None], "segments": torch.ones(5, 6), "labels": labels}
    objective, words = Tag(Tag.Settings(labels=list("abcd"))), labels >= 0
    truth, said = labels[words], logits[words].argmax(-1)
    share, found = figures(objective, Given(logits), rows(batch, [0, 1], [2], [3], [4]))
    assert share == pytest.approx(torch.nn.functional.cross_entropy(logits[words], truth).item(), abs=1e-6)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, said))
