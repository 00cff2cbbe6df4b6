"""The reply is a Python program that passes the record's tests, run where it can do little harm.

    record: {"tests": [{"stdin": "2 3\n", "stdout": "5\n"}, ...]}      or one test: {"answer": "5"}, no stdin
    reply:  the last ``` block, or all of it

A program runs in a fresh interpreter (`python -I`), in an empty folder, as nobody where we are root, without
the network where the kernel lets us, with limits on time, memory, output, files and processes; what it leaves
running is killed with the worker's other descendants (contained.py). It never sees what it should print.
What this is not: a wall against somebody who wants to break out of it. For that run llmkit in a container.
"""

import contextlib
import ctypes
import functools
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.verifiers.verifier import Verifier, VerifierSettings

NOBODY = 65534
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


@register("verifier", "code")
class Code(Verifier):
    """1 if the program prints what every test expects (white space at line ends aside), else 0."""

    class Settings(VerifierSettings):
        name: Literal["code"] = "code"
        timeout_s: float = Field(30.0, gt=0, description="seconds for all tests of one reply")
        run_s: float = Field(5.0, gt=0, description="seconds for one test")
        memory_mb: int = Field(512, gt=0, description="address space of the program")
        output_bytes: int = Field(1 << 20, gt=0, description="most that it may print or write to one file")
        processes: int = Field(16, ge=1, description="most processes and threads; counted where we are root")
        partial: bool = Field(False, description="score the share of tests that pass")

    needs = ()

    def __init__(self, settings):
        super().__init__(settings)
        interpreter()

    def score(self, reply, record):
        tests = record.get("tests") or [{"stdin": "", "stdout": record["answer"]}]
        program = extract(reply)
        passed = 0
        for test in tests:
            printed = run(program, test.get("stdin", ""), self.settings)
            passed += printed is not None and _lines(printed) == _lines(test["stdout"])
            if not self.settings.partial and not passed:
                return 0.0
        return passed / len(tests) if self.settings.partial else float(passed == len(tests))


def extract(reply: str) -> str:
    """The program in a reply: its last fenced block, or the whole text."""
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)```", reply, re.DOTALL)
    return blocks[-1] if blocks else reply


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def run(program: str, stdin: str, settings: Any) -> str | None:
    """What `program` prints; None if it fails, takes too long or prints too much."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o777)
        with open(os.path.join(folder, ".out"), "wb+") as out:
            child = subprocess.Popen(
                [interpreter(), "-I", "-S", "-c", program],
                stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL, cwd=folder, close_fds=True,
                env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"}, start_new_session=True,
                preexec_fn=lambda: _confine(settings),
            )  # fmt: skip
            try:
                with contextlib.suppress(BrokenPipeError):
                    child.communicate(stdin.encode(), timeout=settings.run_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            out.seek(0)
            printed = out.read(settings.output_bytes + 1)
    if child.returncode or len(printed) > settings.output_bytes:
        return None
    return printed.decode(errors="replace")


@functools.cache
def interpreter() -> str:
    """The Python that runs programs: this one, or the system's where user nobody cannot reach this one.

    ConfigError where we are root and there is none: forks of root cannot be limited.
    """
    if os.geteuid() != 0:
        return sys.executable
    for path in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        if os.path.exists(path) and _reachable(os.path.realpath(path)):
            return path
    raise ConfigError(
        "verifier code: as root, and user nobody reaches no Python; install /usr/bin/python3, or be another"
    )


def _reachable(path: str) -> bool:
    """Whether everybody may execute `path`, through all the folders above it."""
    above = [path, *(str(folder) for folder in Path(path).parents)]
    return all(os.stat(name).st_mode & stat.S_IXOTH for name in above)


def _confine(settings) -> None:
    """In the child, before the interpreter starts."""
    seconds = int(settings.run_s) + 1
    limits = {
        "RLIMIT_CPU": seconds,
        "RLIMIT_AS": settings.memory_mb << 20,
        "RLIMIT_FSIZE": settings.output_bytes + 1,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    root = os.geteuid() == 0
    if sys.platform == "linux":
        # a network of its own has no way out; without the right to make one, the program keeps ours
        ctypes.CDLL(None).unshare(CLONE_NEWNET if root else CLONE_NEWUSER | CLONE_NEWNET)
    if root:
        resource.setrlimit(resource.RLIMIT_NPROC, (settings.processes, settings.processes))
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
