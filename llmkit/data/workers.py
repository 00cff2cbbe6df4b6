"""Processes on this machine that share the tasks of a plan: each is handed the next one when it is free.

    parent  ── "7\\n" ──►  python -m llmkit.data.workers FOLDER  ── {"done": 7} ──►  parent

A worker whose parent is gone ends at once, in the middle of a task: what it did is not lost but not used
either, since its marker is missing.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llmkit
from llmkit import errors
from llmkit.data.parts import Parts
from llmkit.errors import DataError, LlmkitError

ROOT = Path(llmkit.__file__).parents[1]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(parts: Parts, workers: int) -> Iterator[int]:
    """Do what is left of `parts` in `workers` processes (0: one per core); yields each task once done."""
    left = parts.left()
    num = min(workers or cores(), len(left))
    if num <= 1:
        for number in left:
            parts.make(number)
            yield number
        return
    todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()
    for number in [*left, *[None] * num]:
        todo.put(number)
    children = [_start(parts.folder) for _ in range(num)]
    try:
        for child in children:
            threading.Thread(target=_drive, args=(child, todo, done), daemon=True).start()
        for _ in left:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):  # closing says so again if the worker was lost
                    pipe.close()


def _start(folder: Path) -> subprocess.Popen:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "llmkit.data.workers", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def _drive(child: subprocess.Popen, todo: queue.SimpleQueue, done: queue.SimpleQueue) -> None:
    """Hand tasks to one worker until there are none."""
    while (number := todo.get()) is not None:
        try:
            child.stdin.write(f"{number}\n")
            child.stdin.flush()
            reply = json.loads(child.stdout.readline() or "null")
        except (OSError, ValueError):
            reply = None
        if reply is None:
            done.put(DataError(f"a worker was lost at part {number}; run the same command to go on"))
            return
        done.put(number if "done" in reply else _raised(reply))


def _raised(reply: dict[str, str]) -> Exception:
    """What a worker raised, as the parent would have: with its class if that is one of llmkit's."""
    cls = getattr(errors, reply["error"], None)
    return cls(reply["says"]) if cls else RuntimeError(f"{reply['error']}: {reply['says']}")


def work(folder: Path) -> None:
    """Do the tasks named on standard input; answer each with a line of JSON on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is said meanwhile ("fetching ...") goes to the terminal
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(todo,), daemon=True).start()
    parts = None
    while True:
        number = todo.get()
        try:
            parts = parts or Parts(folder)
            parts.make(number)
            reply: dict[str, Any] = {"done": number}
        except LlmkitError as error:
            reply = {"error": type(error).__name__, "says": str(error)}
        except Exception as error:  # a fault of ours: the parent must hear of it, whatever it is
            sys.excepthook(*sys.exc_info())
            reply = {"error": type(error).__name__, "says": str(error)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def _listen(todo: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        todo.put(int(line))
    os._exit(0)  # nobody is there to ask for more, or to hear of what is being done


if __name__ == "__main__":
    work(Path(sys.argv[1]))
