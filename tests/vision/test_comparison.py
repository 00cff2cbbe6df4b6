"""The comparison of a run's evaluations: order and padding of rows mean nothing, figures are the metrics'."""

import numpy as np
import pytest

from llmkit.errors import ConfigError
from llmkit.objectives.vision.comparison import Comparison, Settings
from llmkit.vision import metrics

DRAWS = np.random.RandomState(0)
ROWS = {
    "key": DRAWS.permutation(60),
    "valid": np.ones(60, bool),
    "real": DRAWS.normal(size=(60, 4)),
    "fake": 2 * DRAWS.normal(size=(60, 4)),
    "guess": DRAWS.choice(4, size=60, p=[0.5, 0.49, 0.01, 0]),
    "label": np.arange(60) % 4,
    "classes": np.full(60, 4),
}


def figures(rows: list[dict], conditional: bool = True) -> dict[str, float]:
    return Comparison(Settings(extractor="none"), "g").figures(rows, conditional)


def part(chosen) -> dict:
    return {name: value[chosen] for name, value in ROWS.items()}


def test_the_figures_are_those_of_the_metrics():
    found = figures([ROWS])
    a, b = (metrics.Moments(4).add(ROWS[name]) for name in ("real", "fake"))
    assert found["frechet"] == pytest.approx(metrics.frechet(a, b))
    assert (found["precision"], found["recall"]) == metrics.precision_recall(ROWS["real"], ROWS["fake"])
    assert found["class_hits"] == (ROWS["guess"] == ROWS["label"]).mean()
    assert found["modes"] == len(np.unique(ROWS["guess"])) == 2
    assert "class_hits" not in figures([ROWS], conditional=False)


def test_too_few_images_are_refused():
    with pytest.raises(ConfigError, match="5 held-out images are too few"):
        figures([part(np.arange(5))])


def test_any_dealing_of_the_rows_to_ranks_gives_the_same_bits():
    padding = {**part(np.arange(1)), "valid": np.zeros(1, bool), "fake": np.full((1, 4), 1e6)}
    dealt = [part(np.arange(40, 60)), padding, part(np.arange(0, 40))]
    assert figures(dealt) == figures([ROWS])
    wrong = [{**each, "valid": np.ones_like(each["valid"])} for each in dealt]
    assert figures(wrong) != figures([ROWS])
