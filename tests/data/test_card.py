"""What people see of a collection: the card, and the page of `data inspect`."""

import json
import zipfile

import pytest

from llmkit import manifest
from llmkit.data import fetch, inspect
from llmkit.data.collect import Collect, work


@pytest.fixture
def collected(tmp_path):
    """Two sources; one with a licence, both with rejected records."""
    rows = [
        {"id": f"a{i}", "text": f"Text <b>{i}</b> | of the first source. " * (i % 5 + 1)} for i in range(40)
    ]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"id": "bad", "text": 5}])
    )
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"text": f"Second {i}, x@y.org."}) + "\n" for i in range(9))
    )
    sources = [{"path": str(tmp_path / "a.jsonl"), "licence": "CC0-1.0"}, str(tmp_path / "b.jsonl")]
    settings = Collect(source=sources, steps=[{"name": "pii"}], heldout_frac=0.2)
    out = tmp_path / "out"
    out.mkdir()
    result = work(settings, out)
    lifted = {key: result.pop(key) for key in ("counts", "licences")}
    manifest.write(out, config=settings.model_dump(mode="json"), seconds=1.5, **lifted, result=result)
    return out, lifted["counts"], result


def test_the_card_has_the_figures_of_the_manifest(collected):
    out, counts, result = collected
    card = (out / "card.md").read_text()
    assert f"{counts['kept']:,} records kept of {counts['in']:,}" in card
    for label, facts in result["by_source"].items():
        (row,) = (
            line for line in card.splitlines() if line.startswith(f"| {label} |") and facts["licence"] in line
        )
        assert f"| {facts['in']:,} | {facts['kept']:,} | {facts['bytes']:,} |" in row
    assert "| text_is_not_text | 1 |" in card
    assert "| pii | mail 9 |" in card
    assert sum(sum(f["lengths"].values()) for f in result["by_source"].values()) == counts["kept"]


def test_the_page_shows_samples_lengths_and_rejected_ones_and_runs_nothing(collected, capsys):
    out, _, _ = collected
    inspect.show(out)
    page = (out / "inspect.html").read_text("utf-8")
    for wanted in (
        'id="sources"',
        'id="lengths"',
        'id="samples"',
        'id="rejected"',
        "text_is_not_text",
        "CC0-1.0",
    ):
        assert wanted in page
    assert "<svg" in page
    assert "<script" not in page
    assert "Text <b>" not in page
    assert "Text &lt;b&gt;" in page
    assert "inspect.html" in capsys.readouterr().out.replace("\n", "")


def test_a_package_is_named_with_its_hash_date_and_licence_text(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    package = fetch.Package("pypi", "words", "1.0", "")
    package.folder.mkdir(parents=True)
    with zipfile.ZipFile(package.folder / "words.whl", "w") as archive:
        archive.writestr("words-1.0.dist-info/LICENSE", "Do as you like.")
        archive.writestr("words/a.txt", "x")
    monkeypatch.setattr(fetch, "_verify", lambda package, path: None)
    assert fetch.licence_text(package).endswith("\n\nDo as you like.")
    assert fetch.facts(package)["name"] == "words"
    assert len(fetch.facts(package)["retrieved"]) == 10
