"""Collecting in many processes: the same bytes as in one, whoever is killed when, and nothing stale."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llmkit.data import parts, workers
from llmkit.data.collect import Collect, work
from llmkit.data.sources import files
from llmkit.errors import DataError

STEPS = [{"name": "pii"}, {"name": "near-duplicates"}, {"name": "lines", "max_times": 2}, {"name": "fineweb"}]
RESULT = ("train.jsonl", "heldout.jsonl", "heldout.txt", "rejected.jsonl")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder with one long .jsonl and two texts, in seven pieces or more; some of it is rejected."""
    monkeypatch.setattr(files, "PIECE", 1 << 14)
    folder = tmp_path / "in"
    folder.mkdir()
    words = [f"word{i}" for i in range(400)]

    def text(i):
        draw = random.Random(i - i % 2 if i % 7 == 3 else i)
        lines = [" ".join(draw.choices(words, k=12)) + "." for _ in range(6)]
        return "\n".join([*lines, "All rights reserved by the publisher.", f"Mail a{i % 9}@b.org to order."])

    rows = [json.dumps({"text": text(i), "id": i}) if i % 50 else "not json" for i in range(240)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    for name in "bc":
        (folder / f"{name}.txt").write_text(
            "\n\n".join(text(i) for i in range(100, 160)) + "x" * 30_000 + name
        )
    return folder


def asked(corpus, **more) -> dict:
    return {"source": str(corpus), "steps": STEPS, "heldout_frac": 0.1, "keep_rejected": True, **more}


def run(out: Path, settings: dict):
    out.mkdir(parents=True, exist_ok=True)
    return work(Collect(**settings), out)


def result(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.*"))}


def test_many_workers_write_the_same_bytes_as_one(tmp_path, corpus):
    one, three = (run(tmp_path / f"out{n}", asked(corpus, workers=n)) for n in (1, 3))
    assert one == three
    assert result(tmp_path / "out1") == result(tmp_path / "out3")
    assert set(one["counts"]["rejected"]) >= {"not_json", "duplicate", "near_duplicate"}
    assert one["found"]["pii"]["mail"] > 100
    assert one["found"]["lines"]["line"] > 100
    assert not (tmp_path / "out3.parts").exists()


def test_one_stretch_of_a_file_has_the_ids_it_would_have_in_the_whole(tmp_path, corpus, monkeypatch):
    run(tmp_path / "pieces", asked(corpus))
    monkeypatch.setattr(files, "PIECE", 1 << 30)
    run(tmp_path / "whole", asked(corpus))
    assert result(tmp_path / "pieces") == result(tmp_path / "whole")


def test_stretches_begin_and_end_at_lines_and_miss_none(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE", 1 << 20)
    path = tmp_path / "a.jsonl"
    lines = [b"%d " % i + b"x" * (i * 7919 % 3000) + b"\n" for i in range(3000)]
    path.write_bytes(b"".join(lines) + b"the last")
    stretches = list(files.stretches(path))
    assert len(stretches) == 4
    assert [start for start, _, _ in stretches[1:]] == [end for _, end, _ in stretches[:-1]]
    assert stretches[-1][1] == path.stat().st_size
    for start, _, before in stretches:
        assert path.read_bytes()[start:].startswith(b"%d " % before)


def start(out: Path, settings: dict) -> subprocess.Popen:
    """The same in a process of its own, which may be killed."""
    out.mkdir(exist_ok=True)
    code = (
        "import sys, json, pathlib; from llmkit.data.collect import *; from llmkit.data.sources import files;"
        "files.PIECE = 1 << 14; work(Collect(**json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]))"
    )
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(settings), str(out)])


def wait_for(what, timeout=60.0):
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return found


def test_a_kill_at_any_point_costs_nothing_but_time(tmp_path, corpus):
    """Killed twice, when some parts are done: the end is the same, and those parts are used."""
    run(tmp_path / "whole", asked(corpus))
    out, home, before = tmp_path / "out", tmp_path / "out.parts", []
    for share in (2, 5):
        child = start(out, asked(corpus, workers=2))
        wait_for(lambda share=share: len(list(home.rglob("*.done"))) >= share)
        others = psutil.Process(child.pid).children()
        child.kill()
        child.wait()
        psutil.wait_procs(others, timeout=20)
        assert not any(other.is_running() for other in others), "a worker outlived its parent"
        done = {path.name: path.stat().st_mtime_ns for path in home.rglob("*.done")}
        assert all(done[name] == then for name, then in before if name in done), "a part was made again"
        before = list(done.items())
    run(out, asked(corpus))
    assert result(out) == result(tmp_path / "whole")


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path, corpus, monkeypatch):
    made = planned(tmp_path, corpus)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        made.make(0)
    assert [path.name for path in made.folder.iterdir()] == [parts.PLAN]


def test_a_part_that_is_torn_is_made_again(tmp_path, corpus):
    made = planned(tmp_path, corpus)
    for number in made.left():
        made.make(number)
    torn = made.folder / "000001.records"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-10])
    assert made.left() == [1]
    with pytest.raises(DataError, match="part 1 is not whole"):
        list(made.read(1))
    made.make(1)
    assert torn.read_bytes() == whole


def planned(tmp_path, corpus, **more) -> parts.Parts:
    settings = Collect(**asked(corpus, **more))
    return parts.planned(settings, parts.collection.sources(settings), tmp_path / "home")


@pytest.mark.parametrize("guarded", [True, False])
def test_what_other_settings_or_other_files_made_is_never_used(tmp_path, corpus, monkeypatch, guarded):
    """And with the key of the parts held fixed, it would be."""
    if not guarded:
        monkeypatch.setattr(parts, "_key", lambda settings: "same")
    made = planned(tmp_path, corpus)
    made.make(0)
    again = {"same": planned(tmp_path, corpus, workers=5), "seed": planned(tmp_path, corpus, seed=1)}
    planned(tmp_path, corpus).make(0)
    with (corpus / "a.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"text": "One more."}))
    again["files"] = planned(tmp_path, corpus)
    fresh = {name: 0 in made.left() for name, made in again.items()}
    assert fresh == ({"same": True, "seed": True, "files": True} if guarded else dict.fromkeys(fresh, False))
    assert len(list((tmp_path / "home").iterdir())) == 1


def test_ranks_share_the_tasks_and_the_rest_goes_on_from_there(tmp_path, corpus):
    made = planned(tmp_path, corpus)
    parts.take_turns(made.folder, 0, 2)
    assert made.left() == list(range(1, len(made.tasks), 2))
    parts.take_turns(made.folder, 1, 2)
    assert made.left() == []


def test_a_worker_that_is_lost_is_an_error_that_says_so(tmp_path, corpus, monkeypatch):
    made = planned(tmp_path, corpus)
    started = workers._start

    def killed(folder):
        child = started(folder)
        os.kill(child.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(workers, "_start", killed)
    with pytest.raises(DataError, match="a worker was lost at part [01]; run the same command"):
        list(workers.share(made, 2))


def test_what_a_worker_raises_is_raised_here(tmp_path, corpus):
    made = planned(tmp_path, corpus)
    (corpus / "c.txt").unlink()
    (corpus / "c.txt").mkdir()
    (made.folder / parts.PLAN).write_text("{}")
    with pytest.raises(RuntimeError, match="KeyError"):
        list(workers.share(made, 2))
