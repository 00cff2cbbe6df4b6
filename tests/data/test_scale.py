"""The tasks of a collection through datatrove's executors: the same documents as in one process here.

Slurm is tested where a cluster answers (`sinfo`), Ray where it is installed.
"""

import contextlib
import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from llmkit.data import collection, scale
from llmkit.data.collect import Collect, work
from llmkit.data.parts import Parts, planned
from llmkit.data.sources import files
from llmkit.errors import DataError

executor = pytest.importorskip("datatrove.executor")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Texts in eight tasks; below the home folder's disk, which the nodes of a cluster share."""
    monkeypatch.setattr(files, "PIECE", 1 << 12)
    (tmp_path / "in").mkdir()
    for name in range(8):
        rows = ({"text": f"Text {i % 60} of file {name}, mail x@y.org."} for i in range(80))
        (tmp_path / f"in/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(folder: Path, name: str, **settings):
    (folder / name).mkdir()
    asked = Collect(source=str(folder / "in"), steps=[{"name": "pii"}], heldout_frac=0.1, **settings)
    work(asked, folder / name)
    return {path.name: path.read_bytes() for path in (folder / name).iterdir()}


def cluster(on: str) -> bool:
    """Whether there is one to test on."""
    if on == "ray":
        return bool(pytest.importorskip("ray"))
    return bool(shutil.which("sinfo")) and not subprocess.run(["sinfo", "-h"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.parametrize("on", ["slurm", "ray"])
def test_a_cluster_gives_the_same_bytes_as_this_process(folder, on):
    if not cluster(on):
        pytest.skip(f"no {on} here")
    assert run(folder, on, scale={"on": on, "jobs": 3, "memory_gb": 1}) == run(folder, "here")


def test_what_datatrove_sends_does_the_tasks_and_stays_in_its_folder(folder):
    """The same step through its executor for one machine, which sends it to processes as a cluster's does."""
    settings = Collect(source=str(folder / "in"))
    made = planned(settings, collection.sources(settings), folder / "home")
    step = partial(scale._rank, str(made.folder))
    logs = made.folder / "datatrove"
    executor.LocalPipelineExecutor([step], tasks=2, workers=2, logging_dir=str(logs)).run()
    assert Parts(made.folder).left() == []
    assert not [p for p in folder.rglob("*.pik*") if not p.is_relative_to(logs)]


def test_a_cluster_that_ends_early_is_an_error_that_names_its_logs(folder, monkeypatch):
    settings = Collect(source=str(folder / "in"))
    made = planned(settings, collection.sources(settings), folder / "home")
    made.make(0)

    @contextlib.contextmanager
    def ends(*args):
        yield lambda: False

    monkeypatch.setattr(scale, "_ray", ends)
    with pytest.raises(DataError, match=r"ray ended and 7 parts are missing; see .*datatrove"):
        list(scale.share(made, scale.Scale(on="ray")))
