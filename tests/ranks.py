"""Run a function of a test on several ranks: real processes that meet over gloo, with a hard limit on their
time.

    run(function, 2, "argument")     -> [what rank 0 returned, what rank 1 returned]
    spawn(function, 2, "argument")   -> [Ended(code, value, text), ...] however they ended, for tests that
    kill ranks

The function lies at the top level of a test file; arguments and results are plain data (JSON). It finds RANK
and WORLD_SIZE set, as under any launcher, and calls `llmkit.dist.start` itself.
"""

import importlib.util
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
TAIL = 3000
"""Characters of a rank's output that a failure shows."""


class Ended(NamedTuple):
    """How one rank ended: exit code (negative: a signal), what its function returned, what it printed."""

    code: int
    value: Any
    text: str


def run(
    function, world: int, *args: Any, timeout_s: float = 120, env: dict[str, str] | None = None
) -> list[Any]:
    """What `function(*args)` returned on each of `world` ranks. AssertionError shows every rank's last
    output.
    """
    ended = spawn(function, world, *args, timeout_s=timeout_s, env=env)
    if any(rank.code for rank in ended):
        tails = "\n".join(
            f"---- rank {i}, exit {rank.code}\n{rank.text[-TAIL:]}" for i, rank in enumerate(ended)
        )
        raise AssertionError(f"{function.__name__} on {world} ranks failed\n{tails}")
    return [rank.value for rank in ended]


def spawn(
    function,
    world: int,
    *args: Any,
    timeout_s: float = 120,
    grace_s: float = 2,
    env: dict[str, str] | None = None,
) -> list[Ended]:
    """Run it to the end on each rank. Once one fails, the others have `grace_s`; at `timeout_s` all are
    killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = [_start(Path(folder), function, args, rank, world, port, env or {})
                 for port in [_free_port()] for rank in range(world)]  # fmt: skip
        try:
            _wait(ranks, timeout_s, grace_s)
        finally:
            for process in ranks:
                _kill(process)
        return [_ended(Path(folder), rank, process) for rank, process in enumerate(ranks)]


def _start(
    folder: Path, function, args, rank: int, world: int, port: int, env: dict[str, str]
) -> subprocess.Popen:
    own = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT,
        "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": 1,
    }  # fmt: skip
    command = [sys.executable, __file__, inspect.getfile(function), function.__name__, json.dumps(args)]
    with open(folder / f"{rank}.log", "w") as log:
        return subprocess.Popen(
            [*command, str(folder / f"{rank}.json")],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, **{key: str(value) for key, value in own.items()}, **env},
        )


def _wait(ranks: list[subprocess.Popen], timeout_s: float, grace_s: float) -> None:
    end = time.monotonic() + timeout_s
    while any(process.poll() is None for process in ranks) and time.monotonic() < end:
        if any(process.poll() for process in ranks):
            end = min(end, time.monotonic() + grace_s)
        time.sleep(0.02)


def _kill(process: subprocess.Popen) -> None:
    """End the process and its children; one that has ended is left as it is."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ended(folder: Path, rank: int, process: subprocess.Popen) -> Ended:
    result = folder / f"{rank}.json"
    value = json.loads(result.read_text()) if result.exists() else None
    return Ended(process.returncode, value, (folder / f"{rank}.log").read_text(errors="replace"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _main(file: str, name: str, args: str, result: str) -> None:
    spec = importlib.util.spec_from_file_location(f"ranks_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    value = getattr(module, name)(*json.loads(args))
    Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not tests/, whose names would hide packages
    _main(*sys.argv[1:])
