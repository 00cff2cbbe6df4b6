"""What the calls of one function cost: a clock for the benches beside this file."""

import contextlib
import time
from dataclasses import dataclass


@dataclass
class Spent:
    """Seconds, of the clock on the wall and of this process's CPU time."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextlib.contextmanager
def clocked(owner, name: str):
    """A `Spent` that grows with every call of `owner.name` inside."""
    function, spent = getattr(owner, name), Spent()

    def timed(*args, **kwargs):
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent.wall_s += time.perf_counter() - wall
            spent.cpu_s += time.process_time() - cpu

    setattr(owner, name, timed)
    try:
        yield spent
    finally:
        setattr(owner, name, function)
