"""Publishing, choosing and pruning checkpoints: bytes on disk, one process, no tensors."""

import errno
import json
import os

import pytest

from llmkit.checkpoint import store
from llmkit.checkpoint.store import Store, verify
from llmkit.errors import CheckpointError


def two_files(staging):
    (staging / "rank_00000.safetensors").write_bytes(b"weights" * 100)
    (staging / "tokenizer").mkdir()
    (staging / "tokenizer" / "tokenizer.json").write_text("{}")
    return ["rank_00000.safetensors", "tokenizer/tokenizer.json"]


def saved(folder, steps=(2, 4), **settings):
    checkpoints = Store(folder, **settings)
    for step in steps:
        assert checkpoints.save(step, two_files)
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_save_publishes_a_directory_that_verifies(tmp_path):
    path = Store(tmp_path).save(7, two_files, lambda staging: [], recipe="abc")
    assert path == tmp_path / "step_00000007"
    facts = verify(path)
    assert (facts["step"], facts["recipe"]) == (7, "abc")
    assert names(tmp_path) == ["step_00000007"]


def test_the_newest_are_kept_and_the_best(tmp_path):
    checkpoints = Store(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(step, two_files, best=2)
    assert names(tmp_path) == ["step_00000002", "step_00000004", "step_00000005"]


def test_newest_is_the_highest_step_whatever_the_clock_says(tmp_path):
    checkpoints = saved(tmp_path, (9, 10, 100_000_000), keep=3)
    os.utime(tmp_path / "step_00000009", (4e9, 4e9))
    assert checkpoints.newest() == tmp_path / "step_100000000"


def test_no_checkpoint_at_all_is_a_start_from_scratch(tmp_path):
    assert Store(tmp_path / "none").newest() is None


# ---- damage ------------------------------------------------------------------------------------------------


def cut(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: keep(len(data))])


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "cut by one byte": (lambda p: cut(p, lambda n: n - 1), "has 699 bytes, expected 700"),
    "cut in half": (lambda p: cut(p, lambda n: n // 2), "has 350 bytes, expected 700"),
    "emptied": (lambda p: cut(p, lambda n: 0), "has 0 bytes, expected 700"),
    "removed": (lambda p: p.unlink(), "is missing"),
    "first bit flipped": (lambda p: flip(p, 0), "sha256"),
    "last bit flipped": (lambda p: flip(p, -1), "sha256"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_says_how(tmp_path, damage):
    do, said = DAMAGE[damage]
    checkpoints = saved(tmp_path)
    do(tmp_path / "step_00000004" / "rank_00000.safetensors")
    assert checkpoints.newest() == tmp_path / "step_00000002"
    assert len(checkpoints.damaged) == 1
    assert "step_00000004: damaged: rank_00000.safetensors" in checkpoints.damaged[0]
    assert said in checkpoints.damaged[0]


def test_without_comparing_files_a_damaged_checkpoint_would_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_difference", lambda folder, file: "")
    checkpoints = saved(tmp_path)
    flip(tmp_path / "step_00000004" / "rank_00000.safetensors", 0)
    assert checkpoints.newest() == tmp_path / "step_00000004"


def test_a_flipped_bit_in_a_small_file_counts_too(tmp_path):
    checkpoints = saved(tmp_path)
    flip(tmp_path / "step_00000004" / "tokenizer" / "tokenizer.json", 0)
    assert checkpoints.newest().name == "step_00000002"


def test_if_none_is_whole_the_run_does_not_start_from_scratch(tmp_path):
    checkpoints = saved(tmp_path)
    for path in checkpoints.published():
        (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is whole; start afresh with --fresh"):
        checkpoints.newest()


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_reached_again(tmp_path):
    checkpoints = saved(tmp_path)
    flip(tmp_path / "step_00000004" / "rank_00000.safetensors", 0)
    assert checkpoints.save(4, two_files)
    assert checkpoints.newest().name == "step_00000004"


def test_a_damaged_checkpoint_of_a_later_step_does_not_push_out_the_new_one(tmp_path):
    checkpoints = saved(tmp_path, (2, 6), keep=1, max_failed=1)
    saved(tmp_path, (2,), keep=2)
    flip(tmp_path / "step_00000006" / "rank_00000.safetensors", 0)
    assert checkpoints.newest().name == "step_00000002"
    checkpoints.save(4, two_files)
    assert checkpoints.newest().name == "step_00000004"


def test_a_step_that_stands_already_is_not_written_again(tmp_path):
    checkpoints = saved(tmp_path)
    before = (tmp_path / "step_00000004").stat().st_ino
    assert checkpoints.save(4, two_files).stat().st_ino == before


# ---- manifests ---------------------------------------------------------------------------------------------

LINE = {"name": "rank_00000.safetensors", "bytes": 700, "sha256": "0" * 64}
MANIFESTS = {
    "missing": (None, "holds no manifest.json"),
    "empty mapping": ("{}", "format 1 expected, found None"),
    "a list": ("[]", "format 1 expected, found list"),
    "not JSON": ("{'step'", "not JSON"),
    "bytes": (b"\xff\xfe\x00", "not JSON"),
    "deep": ("[" * 100_000, "not JSON"),
    "another format": ({"format": 2, "step": 4, "files": [LINE]}, "format 1 expected, found 2"),
    "another step": ({"format": 1, "step": 2, "files": [LINE]}, "is of step 2"),
    "no files": ({"format": 1, "step": 4}, "files"),
    "empty files": ({"format": 1, "step": 4, "files": []}, "lists no file"),
    "twice": ({"format": 1, "step": 4, "files": [LINE, LINE]}, "one twice"),
    "repeated key": ('{"format": 1, "format": 1}', "stands there twice"),
    "outside": ({"format": 1, "step": 4, "files": [{**LINE, "name": "../x"}]}, "outside of it"),
    "absolute": ({"format": 1, "step": 4, "files": [{**LINE, "name": "/etc/passwd"}]}, "outside of it"),
    "no sum": ({"format": 1, "step": 4, "files": [{**LINE, "sha256": ""}]}, "without size and sha256"),
    "text for a size": ({"format": 1, "step": 4, "files": [{**LINE, "bytes": "many"}]}, "not sound"),
    "text for a line": ({"format": 1, "step": 4, "files": ["x"]}, "not sound"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_an_unsound_manifest_is_refused_with_its_reason(tmp_path, case):
    text, said = MANIFESTS[case]
    saved(tmp_path)
    path = tmp_path / "step_00000004"
    (path / "manifest.json").unlink()
    if text is not None:
        data = text if isinstance(text, bytes) else text if isinstance(text, str) else json.dumps(text)
        (path / "manifest.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(CheckpointError, match="manifest.json") as caught:
        verify(path)
    assert said in str(caught.value)


def test_a_huge_manifest_is_refused_before_it_is_read(tmp_path):
    saved(tmp_path)
    with open(tmp_path / "step_00000004" / "manifest.json", "ab") as file:
        file.truncate(1 << 30)  # sparse: it takes no room
    with pytest.raises(CheckpointError, match="1073741824 bytes are too many"):
        verify(tmp_path / "step_00000004")


def test_a_link_out_of_the_directory_is_not_followed(tmp_path):
    saved(tmp_path)
    file = tmp_path / "step_00000004" / "rank_00000.safetensors"
    outside = tmp_path / "outside"
    file.rename(outside)
    file.symlink_to(outside)
    with pytest.raises(CheckpointError, match="outside of it"):
        verify(tmp_path / "step_00000004")


# ---- saves that fail ---------------------------------------------------------------------------------------


def full(staging):
    (staging / "rank_00000.safetensors").write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_fails_the_save_and_keeps_what_was_there(tmp_path):
    checkpoints = saved(tmp_path)
    assert checkpoints.save(6, full) is None
    assert (
        "checkpoint of step 6 not saved (rank 0: [Errno 28] No space left on device)" in checkpoints.failure
    )
    assert names(tmp_path) == ["step_00000002", "step_00000004"]
    assert checkpoints.save(8, two_files)
    assert checkpoints.failed == 0


def test_a_disk_that_fills_up_at_the_last_moment_fails_the_save_too(tmp_path):
    checkpoints = saved(tmp_path)
    assert checkpoints.save(6, two_files, full) is None
    assert names(tmp_path) == ["step_00000002", "step_00000004"]


def test_too_many_failed_saves_in_a_row_end_the_run(tmp_path):
    checkpoints = saved(tmp_path, max_failed=2)
    assert checkpoints.save(6, full) is None
    with pytest.raises(CheckpointError, match="2 saves in a row failed"):
        checkpoints.save(8, full)


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path):
    checkpoints = saved(tmp_path)
    for name in (".saving_step_00000006", ".removing_step_00000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank_00000.safetensors").write_bytes(b"half")
    assert checkpoints.newest().name == "step_00000004"
    checkpoints.save(6, two_files)
    assert names(tmp_path) == ["step_00000004", "step_00000006"]


def test_a_directory_that_was_deleted_during_the_run_is_made_again(tmp_path):
    checkpoints = saved(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").rename(tmp_path / "gone")
    assert checkpoints.save(6, two_files)
    assert names(tmp_path / "checkpoints") == ["step_00000006"]
