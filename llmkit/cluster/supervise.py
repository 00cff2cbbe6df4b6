"""Run a verb on several ranks under `accelerate launch`, and end as the ranks did, not as the launcher did.

    llmkit train R.yaml -n 2                            this process: the supervisor
      └─ accelerate launch --config_file ...            own process group; prints to RUN/logs/launcher.log
           ├─ python -m llmkit train R.yaml  (rank 0)   a session of its own, as torch starts it
           └─ python -m llmkit train R.yaml  (rank 1)

Launchers exit with 1 whatever their children say, print pages, and orphan them on SIGTERM. So signals go to
the ranks directly; each rank records how it ended in $LLMKIT_EXIT_DIR (the first wins: it is the cause), and
that error is raised here. A rank that dies without a word is named (RankError).
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

from llmkit.checkpoint.runstate import read_exit, write_exit
from llmkit.cluster import allocation
from llmkit.cluster import place as places
from llmkit.cluster.place import Place
from llmkit.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LlmkitError,
    RankError,
    TrustError,
    of_code,
)
from llmkit.log import EXIT_DIR, MARK

MODULE = ("-m", "llmkit")
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
SURVIVORS_S = 5.0
"""How long the other ranks may live once one is lost. torch's launcher alone would give them 30 s."""
PATIENCE = 3
"""The third request to stop ends the ranks at once, without a checkpoint."""

_CLOSING = re.compile(rb"Sending process \d+ closing signal")
_PORT_TAKEN = re.compile(rb"EADDRINUSE|another process is utilizing it")
_FAILURE = re.compile(rb"rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+)")


def inside() -> bool:
    """Whether a launcher has already started this process as one of its ranks."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def needed(ranks: int) -> bool:
    """Whether `ranks` on this node, and the nodes, call for a launcher, and none has started this process."""
    return not inside() and (ranks > 1 or places.find().nodes > 1 or allocation.here())


def train(recipe: str, options: list[str], ranks: int, run_dir: Path) -> None:
    """Train `recipe`, as YAML text, into `run_dir` on `ranks` ranks of this node and of every other.

    The ranks read the recipe from `run_dir`, which all nodes see. Raises what they raised.
    """
    created = not run_dir.exists()
    asked = run_dir / "logs" / "asked.yaml"
    asked.parent.mkdir(parents=True, exist_ok=True)
    partial = asked.with_name(f".asked.{socket.gethostname()}.{os.getpid()}")
    partial.write_text(recipe, encoding="utf-8")
    partial.replace(asked)  # whole at any time: other nodes write the same, and ranks read it
    argv = ["train", str(asked), f"out={run_dir}", *options]
    try:
        if allocation.here():
            allocation.run([*argv, "-n", str(ranks)], run_dir)
        else:
            run(argv, ranks, run_dir)
    except (ConfigError, DataError, CheckpointError, TrustError):
        if (
            created and not (run_dir / "recipe.yaml").exists()
        ):  # refused before it began: leave nothing behind
            shutil.rmtree(run_dir / "logs", ignore_errors=True)
            with contextlib.suppress(OSError):
                run_dir.rmdir()
        raise


def run(argv: list[str], ranks: int, run_dir: Path, place: Place | None = None, program=MODULE) -> None:
    """Run `llmkit *argv` on `ranks` ranks of this node to the end; every node of `place` calls this.

    Raises the error that the ranks ended with, as they said it; RankError if one was lost.
    """
    place = place or places.find()
    log = run_dir / "logs" / f"launcher{f'_{place.rank}' if place.rank else ''}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    launch = _Launch(argv, ranks, place, log, program)
    launch.wait()
    if launch.lost:
        (run_dir / "exit.json").unlink(missing_ok=True)
        write_exit(run_dir, launch.code, launch.line)
    if launch.code:
        raise of_code(launch.code, launch.line)


class _Launch:
    """One `accelerate launch` on this node, and the ranks below it. `wait` sets `code`, `line` and `lost`."""

    def __init__(self, argv: list[str], ranks: int, place: Place, log: Path, program):
        self.log, self.ranks = log, ranks
        self.workers: dict[int, psutil.Process] = {}
        self.gone: list[int] = []  # ranks in the order of their end
        self.asked = 0  # requests to stop
        self.closing: float | None = None  # since when the launcher has been ending ranks because one failed
        self.killed: set[int] = set()  # ranks that had to be ended from here
        self._said = b""
        self._private = tempfile.TemporaryDirectory(prefix="llmkit-")
        config = Path(self._private.name) / "accelerate.yaml"
        settings = launcher_config(ranks, place)
        self.meet = f"{place.host}:{settings['main_process_port']}"
        config.write_text(yaml.safe_dump(settings))
        here = threading.current_thread() is threading.main_thread()
        self._handlers = {number: signal.signal(number, self._forward) for number in FORWARDED if here}
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        self.process = subprocess.Popen(
            [*command, *program, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(ranks) | {EXIT_DIR: self._private.name},
            process_group=0,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        self._reader = threading.Thread(target=self._copy, daemon=True)
        self._reader.start()

    def wait(self) -> None:
        """Until nothing of this launch is left."""
        try:
            while self.process.poll() is None:
                self._watch()
                overdue = self.closing and not self.asked and time.monotonic() - self.closing > SURVIVORS_S
                if overdue or self.asked >= PATIENCE:
                    self._kill_ranks()
                time.sleep(0.1)
        finally:
            self._kill_ranks()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self._reader.join(5)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self.lost = self._find_lost()
            self.code, self.line = self._end()
            self._private.cleanup()

    def _copy(self) -> None:
        """Everything the launcher and the ranks print: to the log; what ranks mark, to the terminal too.

        A mark may stand within a line: other processes write theirs in pieces.
        """
        for line in self.process.stdout:
            noise, _, said = line.partition(MARK.encode())
            self.log.parent.mkdir(parents=True, exist_ok=True)  # --fresh moves the run directory aside
            with open(self.log, "ab") as log:
                log.write(noise + said)
            if said:
                print(said.decode(errors="replace"), end="", flush=True)
            self._said = (self._said + noise)[-100_000:]
            if self.closing is None and _CLOSING.search(noise):
                self.closing = time.monotonic()

    def _watch(self) -> None:
        """Learn which of the launcher's children is which rank, and which ranks have ended."""
        with contextlib.suppress(psutil.Error):
            if len(self.workers) < self.ranks:
                for child in psutil.Process(self.process.pid).children():
                    if rank := child.environ().get("RANK"):
                        self.workers[int(rank)] = child
        self.gone += [rank for rank in self.workers if rank not in self.gone and not self._alive(rank)]

    def _alive(self, rank: int) -> bool:
        try:
            return self.workers[rank].status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _forward(self, number, frame) -> None:
        """Hand a signal to the ranks; before there are any, to the launcher."""
        self.asked += number in (signal.SIGTERM, signal.SIGINT)
        self._watch()
        for worker in self.workers.values():
            with contextlib.suppress(psutil.Error):
                worker.send_signal(number)
        if not self.workers:
            self.process.send_signal(number)

    def _kill_ranks(self) -> None:
        """End the session of every rank: the rank, and whatever it started."""
        self._watch()
        self.killed |= {rank for rank in self.workers if rank not in self.gone}
        for worker in self.workers.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)

    # ---- afterwards ----

    def _find_lost(self) -> str:
        """What became of the first rank that died of a signal which nobody here sent; empty if none did."""
        if self.asked >= PATIENCE:
            return ""
        ends = {int(rank): int(code) for rank, code in _FAILURE.findall(self._said)}
        dead = [rank for rank in ends if ends[rank] < 0 and rank not in self.killed]
        dead = [rank for rank in dead if -ends[rank] != signal.SIGTERM or not (self.closing or self.asked)]
        if not dead:
            return ""
        aborted = [rank for rank in dead if ends[rank] == -signal.SIGABRT]  # gloo does, when a peer is gone
        rank = min([rank for rank in dead if rank not in aborted] or aborted)
        name = signal.Signals(-ends[rank]).name
        cause = " (out of memory, or kill -9)" if name == "SIGKILL" else ""
        return f"rank {rank} was lost: {name}{cause}"

    def _end(self) -> tuple[int, str]:
        code, line = read_exit(Path(self._private.name)) or (0, "")
        if self.lost and code in (0, LlmkitError.code, RankError.code):  # others only follow from it
            line = f"{self.lost}; run it again: it continues from the last checkpoint ({self.log})"
            return RankError.code, line
        if code or self.process.returncode == 0:
            return code, line
        if _PORT_TAKEN.search(self._said):
            return ConfigError.code, f"{self.meet}: the port is in use; run it again, or set PET_MASTER_PORT"
        if self.asked:
            return 128 + signal.SIGTERM, "stopped on request, with no new checkpoint"
        return LlmkitError.code, f"the ranks ended without saying why; see {self.log}"


def launcher_config(ranks: int, place: Place) -> dict:
    """What `accelerate launch` reads on a node that runs `ranks` of them.

    MULTI_GPU is the one type that starts all ranks on a machine without GPUs too. ZeRO is the recipe's
    business (parallel.backend): the engine configures DeepSpeed itself.
    """
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_processes": ranks * place.nodes,
        "num_machines": place.nodes,
        "machine_rank": place.rank,
        "main_process_ip": place.host,
        "main_process_port": place.port or free_port(),
        "same_network": True,
        "rdzv_backend": "static",
        "mixed_precision": "no",
        "use_cpu": False,
    }


def environment(ranks: int) -> dict[str, str]:
    """The launcher's environment: cores shared out among its ranks, time to save, nobody else's place."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(psutil.cpu_count(logical=False) or 1, allowed)
    mine = {key: value for key, value in os.environ.items() if not key.startswith("PET_")}
    return {"OMP_NUM_THREADS": str(max(1, cores // ranks)), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600", **mine}


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _die_with_parent() -> None:
    """Have the kernel send the launcher SIGTERM when the supervisor dies, so that the ranks save."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


__all__ = ["environment", "free_port", "inside", "launcher_config", "needed", "run", "train"]
