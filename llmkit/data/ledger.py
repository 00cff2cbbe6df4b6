"""Which rows every step of a run was really given, written down as it happens: `run.ledger: true`.

    RUN/ledger/from_00000120_rank_1.jsonl       {"step": 120, "samples": [976, 977], "rows": [5121, 88]}

A run that starts again from step 120 writes files of its own. What earlier files say of step 120 and later
was undone with the weights: for every step those count that began last, and not after it.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

NAME = re.compile(r"from_(\d+)_rank_(\d+)\.jsonl")


class Ledger:
    """One rank's book of one start of a run, at step `begun`."""

    def __init__(self, folder: Path, begun: int, rank: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"from_{begun:08d}_rank_{rank}.jsonl").open("w", encoding="utf-8", buffering=1)

    def note(self, step: int, taken: Iterable[tuple[int, int]]) -> None:
        """The (sample number, row id) pairs that this rank was given at `step`."""
        pairs = list(taken)
        line = {"step": step, "samples": [s for s, _ in pairs], "rows": [row for _, row in pairs]}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def close(self) -> None:
        self._file.close()


def forget(folder: Path, begun: int) -> None:
    """Remove what starts at step `begun` or later have left: they are undone, whoever wrote them."""
    for path in folder.glob("from_*.jsonl"):
        if (match := NAME.fullmatch(path.name)) and int(match[1]) >= begun:
            path.unlink()


Taken = dict[int, list[tuple[int, int]]]
"""(sample number, row id) pairs by step."""


def read(folder: Path) -> Taken:
    """What every step was given, over all ranks and starts. What a kill has torn off was undone too."""
    files: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("from_*.jsonl")):
        if match := NAME.fullmatch(path.name):
            files.setdefault(int(match[1]), []).append(path)
    starts = sorted(files)
    steps: Taken = {}
    for begun, after in zip(starts, [*starts[1:], None], strict=True):
        for path in files[begun]:
            for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
                line = json.loads(text)
                if after is None or line["step"] < after:
                    pairs = zip(line["samples"], line["rows"], strict=True)
                    steps.setdefault(line["step"], []).extend(pairs)
    return steps


def faults(steps: Taken, groups: Iterable[range]) -> list[str]:
    """What is wrong with the books of a run: samples left out or taken twice, rows seen twice in an epoch.

    `groups`: the row ids that have epochs of their own; a dataset's own rows, or each part's of a mixture.
    """
    found = []
    taken: dict[int, int] = {}
    for step in sorted(steps):
        for sample, row in sorted(steps[step]):
            if sample in taken:
                found.append(f"step {step}: sample {sample} was taken before")
            taken[sample] = row
    if missing := set(range(max(taken, default=-1) + 1)) - taken.keys():
        found.append(f"samples {sorted(missing)[:5]} were never taken")
    for group in groups:
        rows = [taken[sample] for sample in sorted(taken) if taken[sample] in group]
        for start in range(0, len(rows), len(group)):
            epoch = rows[start : start + len(group)]
            if len(set(epoch)) < len(epoch):
                found.append(
                    f"rows {group.start}..{group.stop - 1}: epoch {start // len(group)} repeats some"
                )
    return found
