"""The run directory: one writer at a time, one recipe, one exit line.

RUN/run.lock       held by the process that writes here; its text says who that is
RUN/recipe.yaml    the resolved recipe; the same command continues the run, another recipe is refused
RUN/exit.json      {code, line} of how the run ended; of several ranks the first to write wins
"""

import contextlib
import errno
import fcntl
import fnmatch
import json
import os
import socket
from pathlib import Path
from typing import Any

import yaml

from llmkit import trust
from llmkit.config import differences, parse_yaml
from llmkit.errors import CheckpointError, ConfigError, LlmkitError, RankError, TrustError
from llmkit.stage import columns, move_aside

CHANGEABLE = (
    "run.out", "run.steps", "run.tokens", "run.log_every", "run.eval_every", "run.eval_rows",
    "run.save_every", "run.save_in_background", "run.keep", "run.max_skips", "run.max_failed_saves",
    "run.time_limit_s", "run.profile", "parallel.*", "plugin",
)  # fmt: skip
"""Dotted keys, as shell patterns, that may differ when a run is continued.

They change no step that is behind. Another number of steps moves what is ahead, the learning rate's schedule:
the run says so.
"""


class RunDir:
    """A run directory that this process may write. Rank 0 opens it; `close` or the process's end lets go."""

    def __init__(self, path: Path, lock: int, changed: dict[str, tuple[Any, Any]]):
        self.path = path
        self.changed = changed
        """{dotted key: (then, now)} of the changeable keys that differ from then."""
        self._lock = lock

    @classmethod
    def open(cls, out: Path, recipe: dict[str, Any], fresh: bool = False) -> "RunDir":
        """Lock `out` and make it the directory of a run of `recipe` (plain, resolved), new or continued.

        ConfigError if it cannot be written, if a live process holds it, or if it belongs to a different
        recipe (with a two-column difference); `fresh` moves what is there aside instead.
        """
        out = Path(out)
        recipe = json.loads(json.dumps(recipe))  # tuples and enums as YAML gives them back
        lock = _lock(out)
        try:
            if fresh and any(child.name not in ("run.lock", "logs") for child in out.iterdir()):
                move_aside(out)  # the lock moves along, and is let go
                os.close(lock)
                lock = _lock(out)
            changed = _changes(out, recipe)
        except BaseException:
            os.close(lock)
            raise
        _write_text(
            out / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, width=110, allow_unicode=True)
        )
        (out / "exit.json").unlink(missing_ok=True)
        return cls(out, lock, changed)

    def close(self) -> None:
        """Let another process have the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _lock(out: Path) -> int:
    """Take `out`/run.lock -> its file descriptor. It is the run's probe write, too: the disk has to take it.

    The lock is the kernel's (flock), so it ends with its holder however that dies. Its text is for people.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"run.out: cannot write to {out}: {error.strerror}; choose another out=") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        os.fsync(lock)
    except OSError as error:
        holder = os.read(lock, 1000).decode(errors="replace")
        os.close(lock)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise ConfigError(
                f"run.out: {out} is in use by another run ({_who(holder)}); wait, or another out="
            ) from None
        raise ConfigError(f"run.out: cannot write to {out}: {error.strerror}; choose another out=") from None
    return lock


def _who(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"pid {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "it has not said which"


def _changes(out: Path, recipe: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between the recipe in `out` and `recipe`; ConfigError if that may not change."""
    if not (out / "recipe.yaml").exists():
        return {}
    old = parse_yaml((out / "recipe.yaml").read_text(encoding="utf-8"), str(out / "recipe.yaml"))
    changed = differences(old, recipe)
    fixed = {
        key: pair for key, pair in changed.items() if not any(fnmatch.fnmatch(key, p) for p in CHANGEABLE)
    }
    if fixed:
        raise ConfigError(
            f"run.out: {out} holds a run of another recipe; use another out=, or --fresh to move it aside\n"
            + columns(fixed)
        )
    return changed


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


# ---- how it ended ------------------------------------------------------------------------------------------


def write_exit(run_dir: Path, code: int, line: str) -> None:
    """Record how a rank ended, unless another was first: its reason is the cause of theirs.

    A lost rank is what the others see of any cause, so a RankError that came first gives way. On a full disk
    nothing is recorded, and nothing raised: that would take the place of the reason.
    """
    partial = run_dir / f".exit.{socket.gethostname()}.{os.getpid()}"
    try:
        partial.write_text(json.dumps({"code": code, "line": line}))
        os.link(partial, run_dir / "exit.json")
    except FileExistsError:
        first = read_exit(run_dir)
        if first and first[0] == RankError.code != code:
            partial.replace(run_dir / "exit.json")
    except OSError:
        pass
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def recorded(run_dir: Path):
    """Record in `run_dir` the error that ends what happens inside, if it is one for people."""
    try:
        yield
    except LlmkitError as error:
        write_exit(run_dir, error.code, str(error))
        raise


def read_exit(run_dir: Path) -> tuple[int, str] | None:
    """(code, line) of how the run ended; None if it has not, or was killed before it could say."""
    try:
        end = trust.read_json(run_dir / "exit.json")
        return int(end["code"]), str(end["line"])
    except FileNotFoundError:
        return None
    except (TrustError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run_dir / 'exit.json'}: not how a run ends: {error}") from None


__all__ = ["CHANGEABLE", "RunDir", "read_exit", "recorded", "write_exit"]
