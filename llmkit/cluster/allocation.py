"""Inside a Slurm allocation of several nodes: the same command once on each, through srun.

salloc -N2, or a batch script:  llmkit train ...          this process, on the first node
  └─ srun --ntasks-per-node=1 llmkit train ...            on each node: the supervisor of its ranks
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from llmkit.checkpoint.runstate import read_exit
from llmkit.errors import of_code

WAIT_S = 300
"""Seconds that the other nodes have to end by themselves once one has: to save, or to see that it is gone."""


def here() -> bool:
    """Whether this process holds an allocation of several nodes and is not yet one of its steps."""
    return int(os.environ.get("SLURM_NNODES", 1)) > 1 and "SLURM_STEP_ID" not in os.environ


def srun(python: str, words: list[str]) -> list[str]:
    """The command that starts `python *words` once on every node."""
    patient = ["--kill-on-bad-exit=0", f"--wait={WAIT_S}"]
    return ["srun", "--ntasks-per-node=1", "--cpu-bind=none", *patient, python, *words]


def run(argv: list[str], run_dir: Path) -> None:
    """Run `llmkit *argv` on all nodes. Raises the error that the ranks ended with."""
    process = subprocess.Popen(
        srun(sys.executable, ["-m", "llmkit", *argv]), stdin=subprocess.DEVNULL, process_group=0
    )

    def stop(number, frame):  # srun would kill the ranks; scancel asks them
        subprocess.run(["scancel", "--signal=TERM", os.environ["SLURM_JOB_ID"]], check=False)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        end = read_exit(run_dir) if run_dir.is_dir() else None
        known = end and end[0] == code
        raise of_code(code, end[1] if known else f"the nodes ended with exit code {code}; see above")


__all__ = ["WAIT_S", "here", "run", "srun"]
