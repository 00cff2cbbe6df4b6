"""A stage runs once, publishes by rename, leaves nothing half-written, and refuses to be something else."""

import pytest

from llmkit import manifest, stage
from llmkit.config import Section
from llmkit.errors import ConfigError, DataError


class Settings(Section):
    a: int = 1


def make(folder):
    (folder / "made.txt").write_text("x")
    return {"answer": 42, "counts": {"in": 3}}


def test_a_stage_runs_once(tmp_path):
    out, ran = tmp_path / "out", []
    for _ in range(2):
        facts = stage.perform("v", Settings(), out, {}, lambda staging: ran.append(1) or make(staging))
    assert len(ran) == 1
    assert facts["result"] == {"answer": 42}
    assert facts["counts"] == {"in": 3}
    assert (out / "made.txt").exists()


def test_a_failed_stage_leaves_nothing_behind(tmp_path):
    def fail(staging):
        (staging / "half.txt").write_text("x")
        raise DataError("where: what; cure")

    with pytest.raises(DataError):
        stage.perform("v", Settings(), tmp_path / "out", {}, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_stage_leaves_no_folder_that_it_made_and_each_that_was_there(tmp_path):
    def fails(staging):
        raise DataError("no")

    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError):
        stage.perform("toy", Settings(), tmp_path / "mine" / "a" / "b" / "out", {}, fails)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_other_settings_are_refused_with_both_columns_and_fresh_moves_aside(tmp_path):
    out = tmp_path / "out"
    stage.perform("v", Settings(), out, {}, make)
    with pytest.raises(ConfigError, match="config.a  1 -> 2"):
        stage.perform("v", Settings(a=2), out, {}, make)
    stage.perform("v", Settings(a=2), out, {}, make, fresh=True)
    assert manifest.read(out)["config"] == {"a": 2}
    assert manifest.read(tmp_path / "out.old-1")["config"] == {"a": 1}


def test_a_changed_input_is_refused(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    manifest.write(source, fingerprint="one")
    stage.perform("v", Settings(), tmp_path / "out", {"data": source}, make)
    manifest.write(source, fingerprint="two")
    with pytest.raises(ConfigError, match="inputs.data"):
        stage.perform("v", Settings(), tmp_path / "out", {"data": source}, make)


def test_a_changed_file_of_the_users_is_noticed(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    (source / "a.txt").write_text("one")
    stage.perform("v", Settings(), tmp_path / "out", {"mine": source}, make)
    (source / "b.txt").write_text("two")
    with pytest.raises(ConfigError, match=r"inputs\.mine"):
        stage.perform("v", Settings(), tmp_path / "out", {"mine": source}, make)
