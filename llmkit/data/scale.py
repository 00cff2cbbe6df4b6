"""The tasks of a plan on a cluster, by datatrove's executors: the same parts as by processes of one machine.

    plan ─► executor (Slurm array, or Ray) ─► rank r of world: llmkit.data.parts.take_turns(FOLDER, r, world)
         ◄─ markers in the shared folder ◄─

datatrove pickles what it sends, into its own folder `datatrove/` beside the parts; llmkit reads none of it
back, only the markers. All machines must see the output's folder and the input under the same paths.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from llmkit.data import workers
from llmkit.data.collection import Scale
from llmkit.data.parts import Parts, take_turns
from llmkit.errors import ConfigError, DataError

POLL_S = 1.0
LEAVE_S = 20


def share(parts: Parts, scale: Scale) -> Iterator[int]:
    """Do what is left of `parts` on the cluster; yields each task when its marker is seen.

    DataError if the cluster is done and markers are missing.
    """
    try:
        import datatrove.executor  # noqa: F401
    except ImportError:
        raise ConfigError("scale: clusters are reached by datatrove; pip install 'llmkit[scale]'") from None
    left = parts.left()
    if not left:
        return
    run = {"slurm": _slurm, "ray": _ray}[scale.on]
    logs = parts.folder / "datatrove"
    with run(scale, [partial(_rank, str(parts.folder.resolve()))], logs) as alive:
        while left:
            going = alive()
            now = parts.left()
            yield from (number for number in left if number not in now)
            left = now
            if left and not going:
                raise DataError(f"scale: {scale.on} ended and {len(left)} parts are missing; see {logs}")
            time.sleep(POLL_S if left else 0)


def _rank(folder: str, data: Any, rank: int, world: int) -> Any:
    """What datatrove calls on every machine."""
    take_turns(Path(folder), rank, world)
    return data


@contextlib.contextmanager
def _slurm(scale: Scale, pipeline: list, logs: Path):
    """A submitted job; what it gives says whether the job is still there. Cancelled if we leave early."""
    from datatrove.executor import SlurmPipelineExecutor

    if not shutil.which("sbatch"):
        raise ConfigError("scale.on: there is no sbatch here; start this on a machine that submits jobs")
    paths = os.pathsep.join(filter(None, [str(workers.ROOT), os.environ.get("PYTHONPATH", "")]))
    executor = SlurmPipelineExecutor(
        pipeline,
        tasks=scale.jobs,
        time=scale.time,
        partition=scale.partition,
        mem_per_cpu_gb=scale.memory_gb,
        job_name="llmkit-collect",
        qos="",
        env_command=f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={paths}; cd {Path.cwd()}",
        logging_dir=str(logs),
        skip_completed=False,  # our own markers say what is done
        requeue=False,
    )
    executor.launch_merge_stats = _nothing  # a job more, for figures that nobody reads
    executor.run()
    job = str(executor.job_id)
    try:
        yield lambda: bool(_said("squeue", "-h", "-j", job))
        for _ in range(LEAVE_S):  # what has done its tasks ends by itself
            if not _said("squeue", "-h", "-j", job):
                break
            time.sleep(1)
    finally:
        if _said("squeue", "-h", "-j", job):
            _said("scancel", job)


def _nothing() -> None:
    pass


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@contextlib.contextmanager
def _ray(scale: Scale, pipeline: list, logs: Path):
    """A run in a thread, since datatrove's executor waits for Ray; what it gives says whether it still does.

    It may wait for ever for an actor that has done its work (seen with Ray 2.60), so the markers decide.
    """
    from datatrove.executor import RayPipelineExecutor

    try:
        import ray
    except ImportError:
        raise ConfigError("scale.on: ray is not installed here; pip install ray") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False)
    executor = RayPipelineExecutor(
        pipeline,
        tasks=scale.jobs,
        mem_per_cpu_gb=scale.memory_gb,
        logging_dir=str(logs),
        skip_completed=False,
    )

    def run() -> None:
        with contextlib.suppress(Exception):  # datatrove logs it; what is missing then is an error of ours
            executor.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread.is_alive
    finally:
        if ours:
            ray.shutdown()
