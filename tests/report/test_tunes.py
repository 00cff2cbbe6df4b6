"""The table of written tunes in a pipeline's report."""

from llmkit import manifest
from llmkit.report import pipeline, tunes

FIGURES = {
    "bars_right": 0.75, "ci95": [0.7, 0.8], "sound": 0.9, "ends_on_key": 0.5, "different": 0.6,
    "copied_bars": 2.0, "copies": 0.02,
}  # fmt: skip
TASK = {"metric": "tunes", **FIGURES, "real": {**FIGURES, "bars_right": 0.99}}


def test_a_model_of_tunes_stands_beside_real_ones(tmp_path, read):
    stages = {
        "pretrain": ("train", {"objective": {"name": "causal"}}),
        "eval": ("eval", {"ckpt": f"{tmp_path}/pretrain"}),
    }
    for name, (verb, config) in stages.items():
        manifest.write(tmp_path / name, verb=verb, config=config, result={})
    manifest.write_json(tmp_path / "eval" / "report.json", {"tasks": {"tunes": TASK}})
    rows = [{"name": n, "verb": verb, "out": str(tmp_path / n)} for n, (verb, _) in stages.items()]
    text = pipeline.write(tmp_path, rows).read_text()
    assert read(tmp_path / "report.json")["tunes"]["real"]["bars_right"] == 0.99
    for shown in ("held-out tunes", "75.0 %", "99.0 %", "2.0 %"):
        assert shown in text
    assert "Kneser-Ney 4-gram" not in text, "no row for what was not measured"


def test_without_tunes_there_is_no_such_part():
    assert not tunes.part({}).content
