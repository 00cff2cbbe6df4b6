"""`data collect` of a recipe in one go, again, and killed three times at random: the same bytes, how long.

    python bench/collect_kills.py [RECIPE] [--workers 2] [--out /tmp/collect_kills]

A kill is SIGKILL to the process that collects, after a tenth to a third of the time that a whole run took;
each try goes on from the last one, so later ones would meet a finished run. Its workers end by themselves.
Results: bench/collect_kills.md.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def command(recipe: str, out: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "llmkit", "data", "collect", recipe, f"out={out}", f"workers={workers}"]


def sums(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.iterdir() if path.suffix in (".jsonl", ".txt"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def timed(words: list[str]) -> float:
    start = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="data/mixture")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("/tmp/collect_kills"))
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    whole, killed = args.out / "whole", args.out / "killed"
    seconds = timed(command(args.recipe, whole, args.workers))
    facts = json.loads((whole / "manifest.json").read_text())
    counts = facts["counts"]
    print(f"whole run: {seconds:.1f} s, {args.workers} workers; {json.dumps(counts)}", flush=True)
    assert counts["in"] == counts["kept"] + sum(counts["rejected"].values())
    for label, source in facts["result"]["by_source"].items():
        assert source["in"] == source["kept"] + sum(source["rejected"].values()), label
        assert source["kept"] == source["train"] + source["heldout"], label
    print("totals add up, for every source")
    print(f"the same command again: {timed(command(args.recipe, whole, args.workers)):.1f} s", flush=True)
    draw = random.Random(0)
    for _ in range(3):
        child = subprocess.Popen(command(args.recipe, killed, args.workers), stdout=subprocess.DEVNULL)
        wait = draw.uniform(0.1, 0.35) * seconds
        time.sleep(wait)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        done = len(list(args.out.glob(".killed.parts/*/*.done")))
        print(f"killed after {wait:.1f} s; {done} parts are done, published: {killed.exists()}", flush=True)
    print(f"run to the end: {timed(command(args.recipe, killed, args.workers)):.1f} s")
    same = sums(whole) == sums(killed)
    print(f"byte-identical: {same} ({', '.join(sums(whole))})")
    assert same
    shutil.rmtree(args.out)


if __name__ == "__main__":
    main()
