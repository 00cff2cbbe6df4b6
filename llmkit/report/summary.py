"""The figures of a pipeline as report.json holds them: one key per part, absent where there is no such stage.

stages[] {name, seconds, status}      data {heldout}      export {path, max_abs_logit_diff,
tokenizer_mismatches} pretrain {bits_per_byte, baseline {xz, bz2, unigram, kn2, kn3, kn4},
tokens_per_second, export} sft {loss_before, loss_after, exact_match}      reward {accuracy, ci95, pairs,
longer_wins, by_source} preference {accuracy_before, accuracy_after, ci95, chosen_logprob_change, kl}
tunes {as the metric says}      vision {stage: as vision.py says}
ci95: of after - before, paired
"""

from statistics import median
from typing import Any

from llmkit.report import vision
from llmkit.report.records import Roles, Stage, series


def summary(roles: Roles) -> dict[str, Any]:
    """All parts that the stages have figures for."""
    parts = {
        "data": _data(roles.documents()),
        "pretrain": _pretrain(roles),
        "sft": _sft(roles),
        "reward": _reward(roles),
        "preference": _preference(roles),
        "tunes": _tunes(roles),
        "export": _export(roles.export()),
        "vision": vision.summary(roles),
    }
    stages = [{"name": s.name, "seconds": s.seconds, "status": s.status} for s in roles.stages]
    return {"stages": stages, **{name: part for name, part in parts.items() if part}}


def tokens_per_second(stage: Stage) -> float | None:
    """Of training: the manifest's figure for the whole run, else the median of the logged ones."""
    logged = [value for _, value in series(stage.metrics, "tokens_per_s")]
    return stage.result.get("tokens_per_second") or (median(logged) if logged else None)


def _data(stage: Stage | None) -> dict[str, Any]:
    return {"heldout": str(stage.out / "heldout.txt")} if stage else {}


def _pretrain(roles: Roles) -> dict[str, Any]:
    trained, evaluated, exported = (f("pretrain") for f in (roles.training, roles.evaluation, roles.export))
    text = evaluated.task("bits_per_byte") if evaluated else {}
    part = _pick(
        text, "bits_per_byte", "ci95", "token_perplexity", "bytes", "window", "baseline", "beats", "loses_to"
    )
    if trained and (speed := tokens_per_second(trained)):
        part["tokens_per_second"] = speed
    if exported:
        part["export"] = str(exported.out)
    return part


def _sft(roles: Roles) -> dict[str, Any]:
    evaluated = roles.evaluation("sft")
    if not evaluated:
        return {}
    loss, answers = evaluated.task("reply_loss"), evaluated.task("exact_match")
    part = _pick(answers, "exact_match", "ci95", "exact_match_before", "gain_ci95")
    return _rename(loss, loss_before="loss_before", loss="loss_after") | part


def _reward(roles: Roles) -> dict[str, Any]:
    evaluated = roles.evaluation("reward")
    pairs = evaluated.task("reward_accuracy") if evaluated else {}
    keys = ("accuracy", "ci95", "pairs", "longer_wins", "above_longer_wins", "above_longer_wins_ci95")
    return _pick(pairs, *keys, "length_correlation", "calibration_error", "by_source")


def _tunes(roles: Roles) -> dict[str, Any]:
    evaluated = roles.evaluation("pretrain")
    return evaluated.task("tunes") if evaluated else {}


def _preference(roles: Roles) -> dict[str, Any]:
    evaluated = roles.evaluation("dpo")
    pairs = evaluated.task("preference") if evaluated else {}
    part = _pick(
        pairs, "accuracy_before", "accuracy_after", "chosen_logprob_change", "kl", "kl_ci95", "pairs"
    )
    return part | _rename(pairs, gain_ci95="ci95")


def _export(stage: Stage | None) -> dict[str, Any]:
    if not stage:
        return {}
    return {"path": str(stage.out), **_pick(stage.result, "max_abs_logit_diff", "tokenizer_mismatches")}


def _pick(figures: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: figures[key] for key in keys if key in figures}


def _rename(figures: dict[str, Any], **names: str) -> dict[str, Any]:
    return {new: figures[old] for old, new in names.items() if old in figures}
