"""What a run says: lines on the terminal, metrics.jsonl, TensorBoard; and the points where tests kill it."""

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

EXIT_DIR = "LLMKIT_EXIT_DIR"
"""Environment variable that a supervisor sets: the directory where a rank records how it ended."""

MARK = "\x1e"
"""Under a supervisor, lines that start so are for the terminal; the rest goes to logs/launcher.log alone."""


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def say(line: str) -> None:
    """One line to the person who runs this; only rank 0 speaks."""
    if _rank() == 0:
        print(_marked(line), flush=True)


def _marked(line: str) -> str:
    mark = MARK if EXIT_DIR in os.environ else ""
    return mark + line.replace("\n", f"\n{mark}")


def warn(line: str) -> None:
    """One line on stderr, from any rank that has something to say."""
    prefix = f"[rank {_rank()}] " if _rank() else ""
    print(_marked(f"{prefix}warning: {line}"), file=sys.stderr, flush=True)


def fault(name: str, step: int) -> None:
    """Die by SIGKILL if LLMKIT_FAULT=name@step:rank says so: the fault tests' only hook in the product."""
    if (asked := os.environ.get("LLMKIT_FAULT")) and asked in (
        f"{name}@{step}:{_rank()}",
        f"{name}@{step}:*",
    ):
        os.kill(os.getpid(), signal.SIGKILL)


class Metrics:
    """Figures by step: appended to metrics.jsonl, and to TensorBoard's files if it is installed."""

    def __init__(self, run_dir: Path, after_step: int):
        """Continue the log in `run_dir`; lines past `after_step`, of a run that died later, are dropped."""
        self.path = run_dir / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= after_step]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(f"{line}\n" for line in kept))
            partial.replace(self.path)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self.board = _board(run_dir / "tb", after_step)

    def write(self, step: int, **figures: float) -> None:
        line = {"step": step, "time": round(time.time(), 3), **figures}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
        if self.board and numbers:
            from tensorboard.compat.proto.summary_pb2 import Summary

            values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self.board.file_writer.add_summary(Summary(value=values), step)  # one event for all of them

    def picture(self, step: int, name: str, content: bytes) -> None:
        """Show a PNG or GIF file in TensorBoard as it is, under its name without the ending."""
        sizes = {".png": (">II", content[16:24]), ".gif": ("<HH", content[6:10])}
        stem, suffix = Path(name).stem, Path(name).suffix
        if not self.board or suffix not in sizes:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(*sizes[suffix])
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
        self.board.file_writer.add_summary(Summary(value=[Summary.Value(tag=stem, image=image)]), step)

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")


def _board(folder: Path, after_step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=after_step + 1)
