"""`llmkit compare A B`: two evaluations of the same suite, sample by sample.

What both find easy or hard cancels in the paired difference: its interval is narrower than that of
either figure.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from llmkit.errors import DataError
from llmkit.eval.records import read_jsonl
from llmkit.eval.statistics import mcnemar, paired, sign_test
from llmkit.log import say


def compare(a: Path, b: Path) -> dict[str, dict[str, Any]]:
    """B against A for every task that both evaluation folders hold, over the samples that both hold.

    -> {task: {metric, headline, better, a, b, difference, ci95, p, test, samples, verdict}}, where
    `difference` is b - a, and `left_out` the samples that A or B alone holds. A sample has the weight that
    it has in its own evaluation. Raises DataError where a folder is no evaluation, no task is shared, or a
    shared task has no sample in common.
    """
    reports = [read_report(folder) for folder in (a, b)]
    shared = [label for label in reports[0]["tasks"] if label in reports[1]["tasks"]]
    shared = [label for label in shared if reports[0]["tasks"][label]["better"] != "none"]
    if not shared:
        raise DataError(f"{a} and {b}: no task in common; evaluate both with the same suite")
    return {label: _task(label, a, b, *(report["tasks"][label] for report in reports)) for label in shared}


def read_report(folder: Path) -> dict[str, Any]:
    """The report.json of an evaluation. DataError if there is none."""
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise DataError(f"{folder}: holds no report.json; name the --out folder of `llmkit eval`")
    return json.loads(path.read_text(encoding="utf-8"))


SAME = ("metric", "headline", "heldout", "tokenizer")
"""What a task says of both evaluations alike, where both say it: else no sample is the same."""


def _task(label: str, a: Path, b: Path, task: dict, other: dict) -> dict[str, Any]:
    for key in SAME:
        if key in task and key in other and task[key] != other[key]:
            raise DataError(
                f"{label}: {key} is {task[key]} in {a}, {other[key]} in {b}: measured on other data, or of "
                "something else; evaluate both on the same"
            )
    one, two = (_numbered(Path(x) / "results" / f"{label}.jsonl") for x in (a, b))
    ids = [name for name in one if name in two]
    if not ids:
        raise DataError(
            f"{label}: {a} and {b} share no sample: measured on other data; evaluate both on the same"
        )
    before, after = (np.array([rows[i]["value"] for i in ids], dtype=np.float64) for rows in (one, two))
    own = [np.array([rows[i].get("weight", 1) for i in ids], dtype=np.float64) for rows in (one, two)]
    gain = paired(after, before, own[1], key=label, weights_before=own[0])
    binary = np.isin(np.concatenate([before, after]), (0.0, 1.0)).all()
    return {
        "metric": task["metric"],
        "headline": task["headline"],
        "better": task["better"],
        "a": float(np.average(before, weights=own[0])),
        "b": float(np.average(after, weights=own[1])),
        "difference": gain.value,
        "ci95": [gain.low, gain.high],
        "p": mcnemar(after, before) if binary else sign_test(after - before),
        "test": "McNemar" if binary else "sign test",
        "samples": len(ids),
        "left_out": [len(one) - len(ids), len(two) - len(ids)],
        "verdict": _verdict(gain, task["better"]),
    }


def _numbered(path: Path) -> dict[tuple[str, int], dict]:
    """The samples of a file by id, and by how often that id has come before."""
    rows: dict[tuple[str, int], dict] = {}
    times: Counter = Counter()
    for row in read_jsonl(path):
        rows[row["id"], times[row["id"]]] = row
        times[row["id"]] += 1
    return rows


def _verdict(gain, better: str) -> str:
    """Which is better, if the interval leaves no doubt."""
    if gain.low <= 0 <= gain.high:
        return "no clear difference"
    return "B is better" if (gain.value > 0) == (better == "higher") else "A is better"


def show(a: Path, b: Path) -> None:
    """Print `compare(a, b)`, two lines a task. The verdict is the interval's; `p` is another look at it."""
    say(f"A = {a}, B = {b}")
    for label, t in compare(a, b).items():
        low, high = t["ci95"]
        say(f"{label}: {t['headline']} {t['a']:.4f} -> {t['b']:.4f}: {t['verdict']}")
        difference = f"B - A {t['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
        say(f"    {difference}; {t['samples']} samples, {t['test']} p {t['p']:.2g}")
        if any(t["left_out"]):
            say("    left out: {} samples that A alone holds, {} of B alone".format(*t["left_out"]))
