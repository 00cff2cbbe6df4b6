"""Run a function of a test on several ranks: real processes that meet over gloo, with a time limit.

    run(function, 2, "argument")     -> [what rank 0 returned, what rank 1 returned]
    spawn(function, 2, "argument")   -> [Ended(code, value, text), ...] however they ended

The function lies at the top level of a test file; arguments and results are plain data (JSON). It finds
RANK and WORLD_SIZE set, as under any launcher, and calls `llmkit.dist.start` itself. An LlmkitError ends its
rank with the error's exit code and its line.

    pytest ── request ──► nursery, which has imported torch once ── fork ──► rank 0, rank 1, ...

Importing torch takes longer than most tests, so ranks are forked from a process that has done only that.
"""

import atexit
import contextlib
import faulthandler
import gc
import importlib.util
import inspect
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SLOW_IMPORTS = (
    "llmkit.engine.run", "torch._dynamo", "torch.utils.tensorboard", "deepspeed",
    "peft", "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
)  # fmt: skip
"""What a run would import on the way, and what costs most of its time."""
TAIL = 3000
"""Characters of a rank's output that a failure shows."""
GRACE_S = 10.0
"""How long the other ranks may go on once one has failed."""


class Ended(NamedTuple):
    """How one rank ended: exit code (negative: a signal), what its function returned, what it printed."""

    code: int
    value: Any
    text: str


def run(
    function, world: int, *args: Any, timeout_s: float = 120, env: dict[str, str] | None = None
) -> list[Any]:
    """What `function(*args)` returned on each of `world` ranks. AssertionError shows their last output."""
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
    grace_s: float = GRACE_S,
    env: dict[str, str] | None = None,
) -> list[Ended]:
    """Run it on each rank. Once one has failed the others have `grace_s`; at `timeout_s` all are killed."""
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "file": inspect.getfile(function), "function": function.__name__, "args": args, "world": world,
            "folder": folder, "timeout_s": timeout_s, "grace_s": grace_s, "env": env or {},
        }  # fmt: skip
        codes = _ask(request)
        return [_ended(Path(folder), rank, code) for rank, code in enumerate(codes)]


def _ended(folder: Path, rank: int, code: int) -> Ended:
    result = folder / f"{rank}.json"
    value = json.loads(result.read_text()) if result.exists() else None
    return Ended(code, value, (folder / f"{rank}.log").read_text(errors="replace"))


_nursery: subprocess.Popen | None = None


def _ask(request: dict[str, Any]) -> list[int]:
    """Have the nursery, started on first use, run `request` -> the ranks' exit codes."""
    global _nursery
    if _nursery is None:
        quiet = {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, __file__]
        _nursery = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | quiet,
        )
        atexit.register(_nursery.stdin.close)
    _nursery.stdin.write(json.dumps(request) + "\n")
    _nursery.stdin.flush()
    answer = _nursery.stdout.readline()
    assert answer, f"the nursery of ranks died with {_nursery.wait()}"
    return json.loads(answer)


# ---- inside the nursery ------------------------------------------------------------------------------------


def _serve() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for module in SLOW_IMPORTS:
        with contextlib.suppress(ImportError):  # deepspeed is for Linux only
            importlib.import_module(module)
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # DeepSpeed collects garbage for every engine: half a second, if that looks at all of torch
    for line in sys.stdin:
        request = json.loads(line)
        port = _free_port()
        ranks = [_fork(request, rank, port) for rank in range(request["world"])]
        print(json.dumps(_wait(ranks, request["timeout_s"], request["grace_s"])), flush=True)


def _free_port() -> int:
    """A port below those that the kernel hands out; the next ones are for later runs of the same ranks.

    Every worker of pytest-xdist has ports of its own.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(12_000, 32_000, 100)[worker::workers]
    for port in random.sample(own, len(own)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def _fork(request: dict[str, Any], rank: int, port: int) -> int:
    """Start one rank -> its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        log = os.open(Path(request["folder"]) / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        own = {
            "RANK": rank, "WORLD_SIZE": request["world"], "LOCAL_RANK": rank,
            "LOCAL_WORLD_SIZE": request["world"], "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        os.environ.update({key: str(value) for key, value in (own | request["env"]).items()})
        faulthandler.register(signal.SIGUSR1)
        code = _call(request, rank)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _call(request: dict[str, Any], rank: int) -> int:
    from llmkit.errors import LlmkitError

    spec = importlib.util.spec_from_file_location(f"ranks_{Path(request['file']).stem}", request["file"])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    try:
        value = getattr(module, request["function"])(*request["args"])
    except LlmkitError as error:
        print(f"{type(error).__name__}: {error}")
        return error.code
    (Path(request["folder"]) / f"{rank}.json").write_text(json.dumps(value))
    return 0


def _wait(pids: list[int], timeout_s: float, grace_s: float) -> list[int]:
    """The exit codes of all children, -9 for those that had to be killed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + timeout_s
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid]:
                    end = min(end, time.monotonic() + grace_s)
        if time.monotonic() > end:
            late = set(pids) - set(codes)
            for pid in late:
                os.kill(pid, signal.SIGUSR1)  # its log then says where it stood
            time.sleep(0.2)
            for pid in late:
                os.killpg(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not tests/, whose names would hide packages
    _serve()
