"""Generated images beside a training set that lies in order of its classes, as a folder does."""

from types import SimpleNamespace

import numpy as np
import torch

from llmkit.eval.metrics import frechet


def test_precision_and_recall_are_of_all_classes(monkeypatch):
    """Of 600 training images, class by class, 60 are looked at; fakes of both classes are all as they are."""
    draw = np.random.default_rng(0)
    real = np.concatenate([draw.normal(place, 1.0, (300, 3)) for place in (0, 50)])
    fake = np.stack([draw.normal(place, 1.0, (100, 3)) for place in (0, 50)], 1).reshape(-1, 3)
    metric = frechet.Frechet(
        frechet.Frechet.Settings(images={"source": "digits"}, extractor="x", count=200)  # type: ignore[arg-type]
    )
    net = torch.nn.Linear(1, 1)
    monkeypatch.setattr(frechet, "CLOUD", 60)
    monkeypatch.setattr(frechet, "open_model", lambda *args: SimpleNamespace(net=net))
    monkeypatch.setattr(metric, "_real", lambda net, split, device: real)
    monkeypatch.setattr(metric, "_fake", lambda net, extractor, device: (fake, None))
    monkeypatch.setattr(metric, "_accuracy", lambda net, device: None)
    figures = metric.measure(SimpleNamespace(net=net)).figures
    assert figures["precision"] > 0.8
    assert figures["recall"] > 0.8


def test_captions_are_taken_from_all_over_the_set():
    assert frechet.spread(3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    few = frechet.spread(1000, 20)
    assert len(set(few.tolist())) == 20
    assert few.max() > 700
