"""Rules that end a run gone wrong: one that is broken is a warning; too often in a row, it is the verdict.

While an objective warns nothing is saved, so the newest checkpoint is from before the trouble began: that is
what the run goes back to (engine/guard.py, exit code 5).
"""


def heed(found: dict[str, str], patience: int, state: dict[str, float]) -> tuple[str, str]:
    """Count in `state` how often in a row each rule is broken -> (a warning while one is, the verdict).

    `found` has every rule that was looked at, with what is wrong, or nothing.
    """
    warning = verdict = ""
    for rule, wrong in found.items():
        count = state[f"broken_{rule}"] = state.get(f"broken_{rule}", 0.0) + 1 if wrong else 0.0
        if wrong:
            warning = f"stop.{rule}: {wrong}"
            verdict = verdict or (warning if count >= patience else "")
    return warning, verdict
