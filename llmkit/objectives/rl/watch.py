"""Rules that end a run which has learned to please its reward instead of doing the task (../watch.py).

Every update is looked at; a rule that is broken `patience` updates in a row ends the run.
"""

from pydantic import Field

from llmkit.config import Section


class StopRules(Section):
    """Limits of what reinforcement learning may do to the policy. 0: no limit."""

    kl: float = Field(0.0, ge=0, description="largest KL to the reference (k3), nats per token")
    entropy: float = Field(0.0, ge=0, description="smallest entropy of the policy, nats per token")
    length: float = Field(
        0.0, ge=0, description="largest mean length of replies, as a multiple of that at the start"
    )
    repetition: float = Field(
        0.0, ge=0, le=1, description="largest share of 3-grams that a reply had said before"
    )
    disagreement: float = Field(
        0.0, ge=0, description="largest lead of the reward's gain over that of `judge`, both since the start "
        "and in standard deviations at the start",
    )  # fmt: skip
    patience: int = Field(5, ge=1, description="updates in a row that break a rule before the run is ended")


RULES = ("kl", "entropy", "length", "repetition", "disagreement")


def broken(rules: StopRules, figures: dict[str, float], state: dict[str, float]) -> dict[str, str]:
    """What is wrong with one update by rule, "" if nothing. `state` keeps what the first one looked like."""
    for key in ("length", "reward", "reward_std", "judged", "judged_std"):
        if key in figures:
            state.setdefault(f"first_{key}", figures[key])
    out = dict.fromkeys(RULES, "")
    if rules.kl and figures["kl"] > rules.kl:
        out["kl"] = f"KL of {figures['kl']:.3g} nats per token"
    if rules.entropy and figures["entropy"] < rules.entropy:
        out["entropy"] = f"entropy of {figures['entropy']:.3g} nats per token"
    if rules.length and figures["length"] > rules.length * state["first_length"]:
        out["length"] = f"{figures['length']:.3g} tokens a reply, {state['first_length']:.3g} at the start"
    if rules.repetition and figures["repetition"] > rules.repetition:
        out["repetition"] = f"{figures['repetition']:.0%} of 3-grams repeated"
    if rules.disagreement and (lead := _lead(figures, state)) > rules.disagreement:
        out["disagreement"] = f"the reward has gained {lead:.3g} deviations more than the judge"
    return out


def _lead(figures: dict[str, float], state: dict[str, float]) -> float:
    gain = {key: (figures[key] - state[f"first_{key}"]) / max(state[f"first_{key}_std"], 1e-6)
            for key in ("reward", "judged")}  # fmt: skip
    return gain["reward"] - gain["judged"]
