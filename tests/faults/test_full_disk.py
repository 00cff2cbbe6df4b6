"""A disk that is full when a checkpoint is due: one line, the last one stays, training goes on."""

import subprocess

import pytest

from tests import ranks
from tests.checkpoint import small
from tests.faults import scenes


@pytest.mark.slow
def test_one_failed_save_costs_nothing_else(tmp_path):
    straight, broken = (str(tmp_path / name) for name in ("straight", "broken"))
    ranks.run(small.train, 2, straight, "toy", {})
    ended = ranks.spawn(scenes.full_disk, 2, broken, {}, [4])
    assert [rank.code for rank in ended] == [0, 0], ended[0].text
    assert ended[0].text.count("checkpoint of step 4 not saved (rank 1: [Errno 28]") == 1
    assert sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()) == [
        "step_00000002",
        "step_00000006",
        "step_00000008",
    ]
    assert small.digest(small.newest(broken)) == small.digest(small.newest(straight))


@pytest.mark.slow
def test_too_many_failed_saves_stop_all_ranks_with_one_line(tmp_path):
    settings = {"run__max_failed_saves": 2}
    ended = ranks.spawn(scenes.full_disk, 2, str(tmp_path / "run"), settings, [4, 6, 8])
    assert [rank.code for rank in ended] == [4, 4], [rank.text for rank in ended]
    assert "2 saves in a row failed (rank 1: [Errno 28] No space left on device)" in ended[0].text
    assert small.newest(tmp_path / "run").name == "step_00000002"


@pytest.mark.slow
def test_a_run_whose_last_save_fails_is_not_called_done(tmp_path):
    ended = ranks.spawn(scenes.full_disk, 2, str(tmp_path / "run"), {}, [8])
    assert [rank.code for rank in ended] == [4, 4], [rank.text for rank in ended]
    assert "checkpoint of step 8 not saved (rank 1: [Errno 28] No space left" in ended[0].text
    assert "make room, and the same command continues" in ended[0].text
    assert small.newest(tmp_path / "run").name == "step_00000006"


@pytest.mark.slow
def test_if_the_ranks_did_not_agree_on_it_a_full_disk_would_break_the_run(tmp_path):
    ended = ranks.spawn(scenes.full_disk, 2, str(tmp_path / "run"), {}, [4], False, timeout_s=40)
    assert all(rank.code for rank in ended)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 512 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_really_is_full_keeps_the_last_good_checkpoint(small_disk):
    out = small_disk / "run"
    settings = {"run__keep": 20, "run__save_every": 1, "run__max_failed_saves": 2}
    ended = ranks.spawn(small.train, 2, str(out), "causal", settings)
    assert [rank.code for rank in ended] == [4, 4], [rank.text for rank in ended]
    assert "No space left on device" in ended[0].text
    assert small.newest(out) is not None
    assert not list((out / "checkpoints").glob(".saving*"))
