"""Checkpoints on disk: published by one rename, verified before use, pruned after the next one stands. No
torch here.

    .saving_step_00000123/     every rank writes its files, fsyncs and hashes them
            │ all ranks are done; rank 0 writes manifest.json with every size and sha256
            ▼ rename
    step_00000123/             from here on it exists; only then are older ones removed
            │ rename
            ▼
    .removing_step_00000100/   deleted; what a kill leaves of it, or of .saving_*, the next save removes

A kill at any point leaves the previous checkpoint or the new one, never a torn one: see
FAULT_POINTS.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmkit import manifest, trust
from llmkit.errors import CheckpointError, TrustError
from llmkit.log import fault

FORMAT = 1
FAULT_POINTS = (
    "staging", "mid_shard", "shards_done", "before_manifest", "before_rename", "after_rename", "pruning",
)  # fmt: skip
"""Every place where a save can be killed by LLMKIT_FAULT=point@step:rank, in order."""

_NAME = re.compile(r"step_(\d{8,})")


def step_of(path: Path) -> int:
    """The step that the name of a checkpoint directory states. CheckpointError if it is not such a name."""
    if not (match := _NAME.fullmatch(path.name)):
        raise CheckpointError(f"{path}: not a checkpoint; its name is not step_ and eight digits")
    return int(match[1])


class Store:
    """The checkpoints of one run. All ranks call `save` together; the rest is for rank 0 alone."""

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        max_failed: int = 3,
        rank: int = 0,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ):
        """`gather(value)` returns every rank's plain value, in rank order: barrier and agreement in one."""
        self.folder = Path(folder)
        self.keep = keep
        self.max_failed = max_failed
        self.rank = rank
        self.gather = gather
        self.failed = 0
        """Saves that failed in a row."""
        self.failure = ""
        """Why the last one failed, in one line."""
        self.damaged: list[str] = []
        """What `newest` passed over: one line each, with the file, what was found and what was expected."""

    # ---- saving --------------------------------------------------------------------------------------------

    def save(
        self,
        step: int,
        write: Callable[[Path], list[str]],
        finish: Callable[[Path], list[str]] = lambda staging: [],
        best: int | None = None,
        **facts: Any,
    ) -> Path | None:
        """Publish the checkpoint of `step`: `write(staging)` writes this rank's files, returns their names.

        `finish(staging)` does the same on rank 0 alone, once all ranks have written. -> the checkpoint's
        path, or None if a rank could not write: the reason is in `failure`, the partial one is removed and
        the older ones still stand. After `max_failed` of those in a row raises CheckpointError instead.
        `facts` go into the manifest; `best` is a step that is not pruned.
        """
        path = self.folder / f"step_{step:08d}"
        if all(self.gather(self.rank != 0 or self._stands(path))):
            return path
        staging = self._staging(path)
        files, problem = self._attempt(lambda: self._stage(staging, step))
        if not problem:
            files, problem = self._attempt(lambda: self._write(staging, step, write))
        if not problem:
            _, problem = self._attempt(lambda: self._publish(staging, path, files, finish, facts))
        if problem:
            return self._fail(staging, step, problem)
        self.failed = 0
        if self.rank == 0:
            self._prune(step, best)
        return path

    def _staging(self, path: Path) -> Path:
        """Where the checkpoint grows until it is renamed to `path`: a name that `published` does not list."""
        return self.folder / f".saving_{path.name}"

    def _attempt(self, work: Callable[[], Any]) -> tuple[list[Any], str]:
        """What each rank's `work` returned, and the first complaint if one failed: the same on all ranks."""
        try:
            mine = (work(), "")
        except (OSError, CheckpointError) as error:
            mine = (None, f"rank {self.rank}: {error}")
        outcomes = self.gather(mine)
        return [result for result, _ in outcomes], next((text for _, text in outcomes if text), "")

    def _stage(self, staging: Path, step: int) -> None:
        if self.rank == 0:
            self._remove_leftovers()
            staging.mkdir(parents=True)
        fault("staging", step)

    def _write(self, staging: Path, step: int, write: Callable[[Path], list[str]]) -> list[dict[str, Any]]:
        files = [_sealed(staging, name) for name in write(staging)]
        fault("shards_done", step)
        return files

    def _publish(self, staging: Path, path: Path, by_rank: list[list[dict[str, Any]]], finish, facts) -> None:
        step = step_of(path)
        fault("before_manifest", step)
        if self.rank == 0:
            files = [file for files in by_rank for file in files]
            files += [_sealed(staging, name) for name in finish(staging)]
            manifest.write(staging, format=FORMAT, step=step, files=files, **facts)
            for folder in {(staging / file["name"]).parent for file in files} | {staging}:
                sync_folder(folder)
        fault("before_rename", step)
        if self.rank == 0:
            if path.exists():  # a damaged one, which `newest` had passed over
                path.rename(self.folder / f".removing_{path.name}")
            staging.rename(path)
            sync_folder(self.folder)
        fault("after_rename", step)

    def _fail(self, staging: Path, step: int, problem: str) -> None:
        if self.rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
        self.gather(None)  # nobody goes on while the disk is still full of it
        self.failed += 1
        self.failure = f"checkpoint of step {step} not saved ({problem}); the previous one stands"
        if self.failed >= self.max_failed:
            raise CheckpointError(
                f"{self.folder}: {self.failed} saves in a row failed ({problem}); make room and go on"
            )

    def _prune(self, step: int, best: int | None) -> None:
        """Remove all but the newest `keep` and the best. What it cannot remove, the next save will.

        One of a later step is damaged (the run started before it) and must not count as one that is kept.
        """
        ours = [path for path in self.published() if step_of(path) <= step]
        for path in ours[self.keep :]:
            if step_of(path) != best:
                doomed = self.folder / f".removing_{path.name}"
                with contextlib.suppress(OSError):
                    path.rename(doomed)
                fault("pruning", step)
                shutil.rmtree(doomed, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for leftover in [*self.folder.glob(".saving_step_*"), *self.folder.glob(".removing_step_*")]:
            shutil.rmtree(leftover, ignore_errors=True)

    # ---- choosing ------------------------------------------------------------------------------------------

    def published(self) -> list[Path]:
        """Every published checkpoint, newest (highest step, whatever the clock says) first."""
        found = [path for path in self.folder.glob("step_*") if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=step_of, reverse=True)

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole; None if there is none at all. `damaged` lists the others.

        CheckpointError if there are some and not one is whole: that is never a start from scratch.
        """
        self.damaged = []
        for path in self.published():
            try:
                verify(path)
                return path
            except CheckpointError as error:
                self.damaged.append(str(error))
        if self.damaged:
            listed = "; ".join(self.damaged)
            raise CheckpointError(
                f"{self.folder}: no checkpoint is whole; start afresh with --fresh ({listed})"
            )
        return None

    def _stands(self, path: Path) -> bool:
        try:
            return path.is_dir() and bool(verify(path))
        except CheckpointError:
            return False


def verify(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint at `path`, after every file it lists was found with that size and
    sha256.

    CheckpointError names the first file that differs, with what was found and what was expected. No file
    outside of `path` is opened, whatever the manifest says.
    """
    facts = _manifest(path)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        problems = [text for text in pool.map(lambda file: _difference(path, file), facts["files"]) if text]
    if problems:
        raise CheckpointError(f"{path}: damaged: {'; '.join(problems)}")
    return facts


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest in `path`, if it is one. CheckpointError gives the reason."""
    try:
        facts = trust.read_json(path / manifest.NAME)
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
            raise TrustError(f"{path / manifest.NAME}: format {FORMAT} expected, found {found}")
        if facts.get("step") != step_of(path):
            raise TrustError(f"{path / manifest.NAME}: is of step {facts.get('step')}")
        names = [
            str(file["name"]) for file in facts["files"] if file["bytes"] >= 0 and len(file["sha256"]) == 64
        ]
        if not names or len(set(names)) != len(facts["files"]):
            raise TrustError(
                f"{path / manifest.NAME}: lists no file, or one twice, or one without size and sha256"
            )
        for name in names:
            trust.inside(path, name)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: holds no {manifest.NAME}") from None
    except (TrustError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {manifest.NAME} is not sound: {error}") from None
    return facts


def _difference(folder: Path, file: dict[str, Any]) -> str:
    """How the file on disk differs from its line in the manifest; empty if it does not."""
    path = trust.inside(folder, file["name"])
    if not path.is_file():
        return f"{file['name']} is missing"
    if (size := path.stat().st_size) != file["bytes"]:
        return f"{file['name']} has {size} bytes, expected {file['bytes']}"
    if (digest := _sha256(path)) != file["sha256"]:
        return f"{file['name']} has sha256 {digest[:12]}, expected {file['sha256'][:12]}"
    return ""


def _sealed(folder: Path, name: str) -> dict[str, Any]:
    """Force a written file to disk -> its line in the manifest."""
    path = folder / name
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return {"name": name, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Force the names in `folder` to disk: without this a rename may not survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
