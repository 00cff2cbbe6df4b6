"""Collecting in pieces: a list of tasks, each of which leaves a part on disk, whoever does it and when.

    .NAME.parts/KEY/plan.json            settings and tasks: [[label of the source, piece of it or null], ...]
                    000007.verdicts      one JSON line of llmkit.data.judge.Verdict per record
                    000007.records       the records, one JSON line each
                    000007.done          sizes of the two; written last

What a task gives depends on nothing but the plan, so any number of processes on any machine that sees the
folder may share them, be killed, and go on; done is done. KEY is a hash of the settings, the user's files
and the code: when one of them changes, nothing that was made before is used.

    python -m llmkit.data.parts FOLDER RANK WORLD      does the tasks RANK, RANK + WORLD, ...
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmkit import manifest, registry
from llmkit.data import collection, fetch
from llmkit.data.collection import Collect
from llmkit.data.judge import Verdict, judged
from llmkit.errors import DataError

PLAN = "plan.json"
CODE = Path(__file__).parent


class Parts:
    """The tasks of a plan, and what has been made of them."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        plan = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
        self.tasks: list[tuple[str, Any]] = [(label, piece) for label, piece in plan["tasks"]]
        for file in plan["plugins"]:
            if file not in registry.loaded:
                registry.load_plugin(file)
        self.settings = Collect.model_validate(plan["settings"])
        self._sources = collection.sources(self.settings)
        self._filters = collection.filters(self.settings)

    def left(self) -> list[int]:
        """The tasks that are not done."""
        return [number for number in range(len(self.tasks)) if not self._is_done(number)]

    def make(self, number: int) -> None:
        """Do one task, unless it is done. What is published is whole: files first, the marker last."""
        if self._is_done(number):
            return
        label, piece = self.tasks[number]
        fetch.used.clear()
        records = judged(self._sources[label], piece, label, self.settings, self._filters)
        own = {kind: self._path(number, f"{kind}.{os.uname().nodename}.{os.getpid()}") for kind in KINDS}
        try:
            with own["verdicts"].open("wb") as verdicts, own["records"].open("wb") as lines:
                for verdict, line in records:
                    verdicts.write(json.dumps(verdict).encode() + b"\n")
                    lines.write(line)
                for file in (verdicts, lines):
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:
            for path in own.values():
                path.unlink(missing_ok=True)
            raise
        sizes: dict[str, Any] = {kind: own[kind].stat().st_size for kind in KINDS}
        sizes["packages"] = [fetch.facts(package) for package in fetch.used.values()]
        for kind in KINDS:
            own[kind].replace(self._path(number, kind))
        manifest.write_json(self._path(number, "done"), sizes)

    def read(self, number: int) -> Iterator[tuple[Verdict, bytes]]:
        """(verdict, record as a JSON line) of a task that is done. DataError if a file is not whole."""
        if not self._is_done(number):
            raise DataError(f"{self.folder}: part {number} is not whole; run the same command again")
        with (
            self._path(number, "verdicts").open("rb") as heads,
            self._path(number, "records").open("rb") as f,
        ):
            for head in heads:
                verdict = Verdict(*json.loads(head))
                yield verdict, f.read(verdict.size)

    def packages(self, label: str) -> list[dict[str, str]]:
        """The packages that a source was read from."""
        done = (self._path(number, "done") for number, (owner, _) in enumerate(self.tasks) if owner == label)
        found = [package for path in done for package in json.loads(path.read_bytes())["packages"]]
        return list({package["sha256"]: package for package in found}.values())

    def _is_done(self, number: int) -> bool:
        try:
            sizes = json.loads(self._path(number, "done").read_bytes())
            return all(self._path(number, kind).stat().st_size == sizes[kind] for kind in KINDS)
        except FileNotFoundError:
            return False

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:06d}.{kind}"


KINDS = ("verdicts", "records")


def planned(settings: Collect, sources: dict[str, Any], home: Path) -> Parts:
    """The parts of these settings below `home`, as far as they are made; those of others are removed."""
    key = _key(settings)
    for other in home.glob("*"):
        if other.name != key:
            shutil.rmtree(other, ignore_errors=True)
    if not (home / key / PLAN).is_file():
        tasks = [[label, piece] for label, source in sources.items() for piece in pieces(source)]
        plan = {"settings": settings.model_dump(mode="json"), "plugins": registry.loaded, "tasks": tasks}
        manifest.write_json(home / key / PLAN, plan)
    return Parts(home / key)


def pieces(source) -> list[Any]:
    """What a source can be split into, each a value that JSON can hold; [None] for one that cannot be."""
    return source.pieces() if hasattr(source, "pieces") else [None]


def _key(settings: Collect) -> str:
    code = sorted([*CODE.rglob("*.py"), *map(Path, registry.loaded)])
    inputs = {label: manifest.state(Path(path)) for label, path in settings.inputs().items()}
    config = settings.model_dump(mode="json")
    return manifest.digest([config, inputs, [path.read_text(encoding="utf-8") for path in code]])[:16]


def take_turns(folder: Path, rank: int, world: int) -> None:
    """Do every `world`-th task from `rank` on: the whole contract of a cluster's job."""
    parts = Parts(folder)
    for number in parts.left():
        if number % world == rank:
            parts.make(number)


if __name__ == "__main__":
    take_turns(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
