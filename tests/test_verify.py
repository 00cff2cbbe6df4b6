"""Certificates say what was compared, and a departure is a share of what it departs from."""

import json

import torch

from llmkit import verify


def test_a_departure_is_relative_and_a_missing_tensor_is_infinite():
    one = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2)}
    other = {"a": torch.tensor([3.0, 4.5]), "b": torch.zeros(2)}
    assert verify._departure(one, one) == 0
    assert abs(verify._departure(other, one) - 0.1) < 1e-9
    assert verify._departure({"a": one["a"]}, one) == float("inf")


def test_a_certificate_is_a_file_and_a_table(tmp_path, capsys):
    verify.certify(tmp_path / "out", "resume", "x.yaml", [("different", 0)], True, steps=8)
    found = json.loads((tmp_path / "out/certificate.json").read_text())
    assert (found["verify"], found["passed"], found["steps"], found["rows"]) == (
        "resume", True, 8, {"different": 0},
    )  # fmt: skip
    assert "verify resume x.yaml: PASSED" in capsys.readouterr().out
