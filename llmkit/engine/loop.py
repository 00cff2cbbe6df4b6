"""The loop: one screen, the same for every objective, every backend and every number of ranks."""

from llmkit.engine.backend import denominators
from llmkit.errors import Stopped
from llmkit.log import fault
from llmkit.objectives.phase import Objective, add


def train(steps, lr_factor, objective, backend, data, evaluator, saver, meter, guard, stop, begun=0):
    """Take steps until the run is over. Every rank executes the same collectives in the same order."""
    for step in range(begun, steps):
        meter.begin(step, lr_factor(step))
        group = meter.feed(backend.prepare(backend.place(data.group(step)), step))
        for i, phase in enumerate(objective.phases):
            if step % phase.every == 0:
                fault(f"phase{i}", step)
                for update in range(phase.updates):
                    rows = objective.rows(phase, update, group)
                    backend.begin(phase, key(saver.seed, step, i, update), lr_factor(step))
                    take_update(objective, phase, backend, rows, meter, guard)
        done = step + 1
        guard.check(done, saver.newest)
        figures = evaluator.run(done)
        halt = stop.agreed(done)
        meter.end(done, figures)  # before the save: a run that dies in between repeats the step and its line
        guard.heed(objective, done, done == steps, saver.newest)
        saver.save(done, figures, last=halt is not None or done == steps)
        if halt:
            raise Stopped(stop.told(done, steps, halt, objective.warning, saver.newest()))


def take_update(objective: Objective, phase, backend, group, meter, guard):
    """One optimiser step of one network: the exact gradient of the loss over the whole global batch."""
    total = denominators(backend.total(add(objective.count(phase, batch) for batch in group)))
    seen = add(backend.micro(phase, b, total, last=i + 1 == len(group)) for i, b in enumerate(group))
    outcome = backend.step(phase)
    if type(objective).after is not Objective.after:
        known = backend.total(seen) | {"grad_norm": outcome.grad_norm}
        objective.after(phase, known, outcome.applied)
    meter.add(phase, seen, outcome)
    guard.watch(outcome)


def key(seed: int, step: int, phase: int, update: int) -> int:
    """One number for (run, step, phase, update), from which dropout is seeded."""
    return ((seed * 1_000_003 + step) * 101 + phase) * 1009 + update
