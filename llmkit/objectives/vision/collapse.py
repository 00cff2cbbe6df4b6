"""Rules that end a GAN which has fallen apart (../watch.py): the last checkpoint before that is kept.

accuracy    d tells real from generated images without fail: g learns nothing any more
grad_norm   steps that are far too long
modes       generated images were of many classes, and are of few
"""

from pydantic import Field

from llmkit.config import Section

MODES_PATIENCE = 2
"""Evaluations in a row with too few classes."""


class StopRules(Section):
    """Limits of what may happen to a GAN. 0: no limit."""

    accuracy: float = Field(
        0.0, ge=0, le=1, description="largest share of real and generated images that d tells apart"
    )
    grad_norm: float = Field(0.0, ge=0, description="largest norm of either net's gradient, before clipping")
    modes: int = Field(
        0, ge=0, description="fewest classes among generated images once there were as many, at evaluations; "
        "needs `distance`"
    )  # fmt: skip
    patience: int = Field(50, ge=1, description="updates in a row that break a rule before the run is ended")


def of_update(rules: StopRules, phase: str, figures: dict[str, float], grad_norm: float) -> dict[str, str]:
    """What is wrong with one update of a phase, by rule, "" if nothing; without a limit: not there."""
    found = {}
    if rules.accuracy and "accuracy" in figures:
        share = figures["accuracy"]
        found["accuracy"] = f"d tells {share:.1%} of images apart" if share > rules.accuracy else ""
    if rules.grad_norm:
        found[f"grad_norm_{phase}"] = (
            f"it is {grad_norm:.3g} in phase {phase}" if grad_norm > rules.grad_norm else ""
        )
    return found


def of_evaluation(rules: StopRules, modes: int, state: dict[str, float]) -> dict[str, str]:
    """The same of an evaluation. `state` keeps whether there ever were enough classes."""
    if not rules.modes:
        return {}
    state["spread"] = float(bool(state.get("spread")) or modes >= rules.modes)
    few = state["spread"] and modes < rules.modes
    return {"modes": f"generated images are of {modes} classes" if few else ""}
