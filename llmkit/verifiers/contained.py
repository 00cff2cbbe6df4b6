"""A verifier in processes of its own: it may hang, crash or fork, and the run goes on.

    run ── {"reply", "record"} ──► worker: Verifier.score ── {"score"} ──► run
              no answer in time, or none at all: the worker and all that it has started are killed,
              the reply scores 0, a new worker takes the next one

A worker is its own session, adopts what its children leave behind (Linux), dies with the run, and imports no
torch. After every reply, processes that are still there are killed, and counted.
"""

import contextlib
import ctypes
import inspect
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmkit import registry
from llmkit.errors import ConfigError

START_S = 60.0
"""Seconds for a worker to import its verifier."""

FAILURES = ("hung", "crashed", "raised", "left_processes")
"""What is counted."""


class Contained:
    """The verifier that `settings` name. `failures` counts what went wrong, by kind."""

    def __init__(self, settings: Any):
        self.settings = settings
        self.verifier = registry.find("verifier", settings.name)
        self.failures: Counter = Counter(dict.fromkeys(FAILURES, 0))
        self._workers: list[_Worker] = []

    def scores(self, items: list[tuple[str, dict[str, Any]]]) -> list[float]:
        """The score of each (reply, record), in order; 0 where the verifier failed."""
        while len(self._workers) < min(self.settings.workers, len(items)):
            self._workers.append(_Worker(self.verifier, self.settings))
        count = len(self._workers)
        if count <= 1:
            outcomes = [self._workers[0].score(*item) for item in items]
        else:
            outcomes = [("", 0.0)] * len(items)
            with ThreadPoolExecutor(count) as pool:
                shares = [range(i, len(items), count) for i in range(count)]
                jobs = [pool.submit(self._share, w, items, s) for w, s in zip(self._workers, shares)]
                for share, job in zip(shares, jobs):
                    for i, outcome in zip(share, job.result()):
                        outcomes[i] = outcome
        self.failures.update(kind for kind, _ in outcomes if kind)
        return [score for _, score in outcomes]

    def _share(self, worker, items, share):
        return [worker.score(*items[i]) for i in share]

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers = []


class _Worker:
    """One process. It is started on first use, and again after every failure."""

    def __init__(self, verifier: type, settings: Any):
        self.verifier, self.settings = verifier, settings
        self.process: subprocess.Popen | None = None
        self._rest, self._said = b"", ""

    def score(self, reply: str, record: dict[str, Any]) -> tuple[str, float]:
        """(what went wrong, if anything; the score)."""
        if self.process is None:
            self._start()
        try:
            self.process.stdin.write(json.dumps({"reply": reply, "record": record}).encode() + b"\n")
            self.process.stdin.flush()
            answer = self._line(self.settings.timeout_s)
        except BrokenPipeError:
            answer = b""
        if not answer:
            self.kill()
            return ("hung" if answer is None else "crashed"), 0.0
        told = json.loads(answer)
        return told["failure"], float(told["score"])

    def _start(self) -> None:
        name = self.verifier.__module__
        home = name if name.startswith("llmkit.") else inspect.getfile(self.verifier)
        words = [home, json.dumps(self.settings.model_dump(mode="json"))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmkit.verifiers.contained", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        self._rest = b""
        if not self._line(START_S):
            self.kill()
            said = self._said.strip().splitlines() or ["it said nothing"]
            raise ConfigError(
                f"objective.rewards: verifier {self.settings.name} does not start ({said[-1]}); mend its file"
            )

    def _line(self, timeout_s: float) -> bytes | None:
        """The next line; empty at the end of the pipe, None if it does not come in time."""
        end = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as wait:
            wait.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not wait.select(max(0.0, end - time.monotonic())):
                    return None
                new = os.read(self.process.stdout.fileno(), 65536)
                if not new:
                    return b""
                self._rest += new
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def kill(self) -> None:
        """End the worker and all that it has started."""
        if self.process is None:
            return
        end_descendants(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.set_blocking(self.process.stderr.fileno(), False)
        self._said = (self.process.stderr.read() or b"").decode(errors="replace")
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process = None


def end_descendants(pid: int) -> int:
    """Kill everything that process `pid` has started, and what that has; -> how many there were."""
    import psutil

    count = 0
    for _ in range(100):  # one that forks faster than it is killed is caught by a later round
        try:
            there = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return count
        alive = [child for child in there if child.status() != psutil.STATUS_ZOMBIE] if there else []
        if not alive:
            return count
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.suspend()
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
                count += 1
        time.sleep(0.01)
    return count


# ---- inside the worker -------------------------------------------------------------------------------------

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent() -> None:
    """Be killed when the process that started this one ends. Linux only; elsewhere an open pipe ends us."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _serve(home: str, settings: str) -> None:
    die_with_parent()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a verifier prints is no answer
    told = json.loads(settings)
    if not home.startswith("llmkit."):
        registry.load_plugin(home)
    verifier = registry.find("verifier", told["name"])
    scorer = verifier(verifier.Settings.model_validate(told))
    print("ready", file=answers, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a pipe that nobody reads would fill
    for line in sys.stdin:
        item = json.loads(line)
        try:
            failure, score = "", min(1.0, max(0.0, float(scorer.score(item["reply"], item["record"]))))
        except Exception:
            failure, score = "raised", 0.0
        if _has_children() and end_descendants(os.getpid()):
            failure = failure or "left_processes"
        print(json.dumps({"failure": failure, "score": score}), file=answers, flush=True)


def _has_children() -> bool:
    """Whether there are children, after those that have ended are forgotten."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    except ChildProcessError:
        return False


if __name__ == "__main__":
    _serve(*sys.argv[1:])
