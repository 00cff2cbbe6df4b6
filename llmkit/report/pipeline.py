"""A whole pipeline on one page, and its figures in report.json: what was made, from what, and how good it is.

PIPELINE/{data, tokenizer, pretrain, eval_pretrain, ...}/ ─► report.json   the figures (summary.py)
                                                          └► report.html   the same for people
"""

import time
from pathlib import Path
from typing import Any

from llmkit import manifest
from llmkit.report import lineage, markup, recompute, samples, tunes, verdict, vision
from llmkit.report.curves import bars, line_chart
from llmkit.report.markup import duration, number, percent, span
from llmkit.report.records import Roles, Stage, read_json, series
from llmkit.report.summary import summary, tokens_per_second

TRAINED = {
    "pretrain": "Pretraining",
    "sft": "Instruction tuning",
    "reward": "Reward model",
    "dpo": "Preference tuning",
}


def write(folder: Path, stages: list[dict[str, Any]]) -> Path:
    """Write report.json and report.html into the pipeline's `folder` -> the page.

    `stages` are {name, verb, out, seconds, status} in order; what they left in their directories is read
    from there. Missing stages, evaluations and figures are left out of the page.
    """
    roles = Roles([Stage.of(row) for row in stages])
    figures = summary(roles)
    manifest.write_json(folder / "report.json", figures)
    title = read_json(folder / "pipeline.json").get("title") or folder.name
    page = folder / "report.html"
    page.write_text(
        markup.page(title, _subtitle(roles), markup.tiles(_headline(figures)), contents(roles, figures)),
        encoding="utf-8",
    )
    return page


def contents(roles: Roles, figures: dict[str, Any]) -> list[markup.Part]:
    """The parts of the page, in the order in which a reader asks."""
    return [
        markup.part("verdict", "What it can and cannot do", _verdict(figures, roles)),
        _pretraining(roles, figures),
        _instructions(roles, figures),
        _reward(roles, figures),
        _preference(roles, figures),
        tunes.part(figures.get("tunes", {})),
        samples.part(roles),
        vision.part(figures.get("vision", {})),
        _origin(roles),
        recompute.part(figures),
    ]


def _subtitle(roles: Roles) -> str:
    seconds = sum(stage.seconds or 0 for stage in roles.stages)
    undone = [stage.name for stage in roles.stages if stage.status != "done"]
    state = f"not finished: {', '.join(undone)}" if undone else f"{len(roles.stages)} stages, all done"
    made = f"llmkit {manifest.llmkit_version()}, {time.strftime('%Y-%m-%d %H:%M')}"
    quick = any(stage.config.get("quick") for stage in roles.stages)
    smoke = (
        "A smoke run (quick=true): it shows that everything works, and its figures mean nothing. "
        if quick
        else ""
    )
    return f"{smoke}{state.capitalize()}, {duration(seconds)} of work. {made}."


def _headline(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the figures that stand for the pipeline."""
    text, sft, reward, preference, export = (
        figures.get(key, {}) for key in ("pretrain", "sft", "reward", "preference", "export")
    )
    shown = []
    if "bits_per_byte" in text:
        beaten = (
            f"{len(text['beats'])} of {len(text['baseline'])} baselines beaten" if "baseline" in text else ""
        )
        shown.append(("Bits per byte", number(text["bits_per_byte"]), beaten))
    if "exact_match" in sft:
        was = f"{percent(sft['exact_match_before'])} before tuning" if "exact_match_before" in sft else ""
        shown.append(("Exact answers", percent(sft["exact_match"]), was))
    if "accuracy" in reward:
        shown.append(
            (
                "Reward accuracy",
                percent(reward["accuracy"]),
                f"{percent(reward['longer_wins'])} by length",
            )
        )
    if "accuracy_after" in preference:
        was = f"{percent(preference['accuracy_before'])} before tuning"
        shown.append(("Preferred reply likelier", percent(preference["accuracy_after"]), was))
    if "max_abs_logit_diff" in export:
        wrong = export.get("tokenizer_mismatches")
        remark = f"after export, {wrong} ids differ" if wrong is not None else "after export"
        shown.append(("Logit difference", f"{export['max_abs_logit_diff']:.1e}", remark))
    return shown


def _verdict(figures: dict[str, Any], roles: Roles) -> str:
    trained, evaluated = roles.training("pretrain"), roles.evaluation("pretrain")
    parameters = evaluated.report.get("parameters") if evaluated else None
    tokens = trained.result.get("tokens") if trained else None
    return markup.bullets(verdict.sentences(figures, parameters, tokens), "verdict")


def _chart(stage: Stage | None, key: str, unit: str, what: str) -> str:
    """One logged figure of a training stage, and the same on held-out rows; empty where there is none."""
    if not stage:
        return ""
    chart = line_chart(series(stage.metrics, key), series(stage.metrics, f"heldout/{key}"), unit, what)
    return markup.figure(chart, f"{what} of {stage.name}, training and held out")


def _curves(stage: Stage | None) -> str:
    """The loss of a tuning stage, and its accuracy where it has one."""
    return markup.row(
        _chart(stage, "loss", "nats", "Loss"), _chart(stage, "accuracy", "share right", "Accuracy")
    )


def _pretraining(roles: Roles, figures: dict[str, Any]) -> markup.Part:
    stage, evaluated, part = (
        roles.training("pretrain"),
        roles.evaluation("pretrain"),
        figures.get("pretrain", {}),
    )
    text = evaluated.task("bits_per_byte") if evaluated else {}
    compared = ""
    if "baseline" in part:
        ranked = [(verdict.NAMES.get(name, name), value, False) for name, value in part["baseline"].items()]
        ranked = sorted([*ranked, ("this model", part["bits_per_byte"], True)], key=lambda bar: bar[1])
        caption = "Bits per byte of the same held-out text, after the same training text; shorter is better"
        compared = markup.figure(bars(ranked, "bits per byte", "Held-out text"), caption)
    rows = [
        ("Bits per byte", number(text.get("bits_per_byte"), 4), span(text.get("ci95"), as_percent=False)),
        ("Perplexity per token", number(text.get("token_perplexity"), 2), ""),
        ("Perplexity per word", number(text.get("word_perplexity"), 1), ""),
        ("Held-out text", f"{number(text.get('bytes'))} bytes, {number(text.get('tokens'))} tokens", ""),
        ("Window and stride", f"{text.get('window')} tokens, none seen twice", ""),
    ]
    table = markup.table(
        "Held-out documents, one pass", ("", "figure", "95 % interval"), rows if text else [], 1
    )
    speed = tokens_per_second(stage) if stage else None
    lead = f"Trained at {number(speed, 0)} tokens per second." if speed else ""
    charts = markup.row(_chart(stage, "loss", "nats per token", "Loss"), compared)
    return markup.part("pretraining", TRAINED["pretrain"], charts, table, lead=lead)


def _instructions(roles: Roles, figures: dict[str, Any]) -> markup.Part:
    evaluated, part = roles.evaluation("sft"), figures.get("sft", {})
    rows = []
    if "loss_after" in part:
        rows.append(
            (
                "Loss of held-out replies, nats per token",
                number(part.get("loss_before")),
                number(part["loss_after"]),
                "",
            )
        )
    if "exact_match" in part:
        row = (percent(part.get("exact_match_before")), percent(part["exact_match"]), span(part.get("ci95")))
        rows.append(("Exact answers to held-out questions", *row))
    sources = evaluated.task("exact_match").get("by_source", {}) if evaluated else {}
    split = [
        (name, percent(s["exact_match"]), span(s["ci95"]), number(s["samples"]))
        for name, s in sources.items()
    ]
    return markup.part(
        "instructions",
        TRAINED["sft"],
        _curves(roles.training("sft")),
        markup.table("Before and after", ("", "before", "after", "95 % interval"), rows, 1),
        markup.table(
            "By source", ("source", "exact", "95 % interval", "questions"), split if len(split) > 1 else [], 1
        ),
    )


def _reward(roles: Roles, figures: dict[str, Any]) -> markup.Part:
    part = figures.get("reward", {})
    sources = {"all sources": part, **part.get("by_source", {})} if part else {}
    rows = [
        (
            name,
            percent(s["accuracy"]),
            span(s["ci95"]),
            percent(s["longer_wins"]),
            span(s["above_longer_wins_ci95"], signed=True),
            number(s["length_correlation"], 2),
            number(s["pairs"]),
        )
        for name, s in sources.items()
    ]
    head = (
        "source",
        "accuracy",
        "95 % interval",
        "longer wins",
        "difference, paired 95 %",
        "length r",
        "pairs",
    )
    note = (
        "Accuracy is strict: a tie of scores is wrong. The rule that the longer reply wins gets half a point "
        "where both are equally long. Length r is the correlation of the score gap with the length gap. The "
        "expected calibration error of the predicted preference, over ten bins, is "
        f"{number(part.get('calibration_error'))}."
    )
    return markup.part(
        "reward",
        TRAINED["reward"],
        _curves(roles.training("reward")),
        markup.table("Held-out pairs, whose prompts were not trained on", head, rows, 1),
        markup.paragraph(note) if part else "",
    )


def _preference(roles: Roles, figures: dict[str, Any]) -> markup.Part:
    evaluated, part = roles.evaluation("dpo"), figures.get("preference", {})
    task = evaluated.task("preference") if evaluated else {}
    rows = []
    if part:
        rows = [
            (
                "Preferred reply likelier",
                part["accuracy_before"],
                part["accuracy_after"],
                span(part["ci95"], signed=True),
            ),
            (
                "The same per token",
                task["accuracy_normalised_before"],
                task["accuracy_normalised_after"],
                "-",
            ),
        ]
        rows = [(name, percent(was), percent(now), interval) for name, was, now, interval in rows]
    split = [
        (name, percent(s["accuracy_before"]), percent(s["accuracy_after"]), number(s["samples"]))
        for name, s in task.get("by_source", {}).items()
    ]
    note = (
        f"The log-probability of preferred replies changed by {part['chosen_logprob_change']:+.3f} nat per "
        f"token. The tuned model is {part['kl']:.4f} nat per token (KL, own replies) from where it began."
        if part
        else ""
    )
    return markup.part(
        "preference",
        TRAINED["dpo"],
        _curves(roles.training("dpo")),
        markup.table("Before and after", ("", "before", "after", "difference, paired 95 %"), rows, 1),
        markup.table("By source", ("source", "before", "after", "pairs"), split if len(split) > 1 else [], 1),
        markup.paragraph(note),
    )


def _origin(roles: Roles) -> markup.Part:
    stages = [
        (s.name, s.verb, duration(s.seconds), s.status or "-", (s.fingerprint or "-")[:12])
        for s in roles.stages
    ]
    caption = "Each box is a directory with a manifest; under its name, the beginning of its fingerprint"
    sources = [row for stage in roles.stages if stage.verb == "data.collect" for row in _sources(stage)]
    return markup.part(
        "origin",
        "Where it comes from",
        markup.figure(lineage.graph(roles.stages), caption),
        markup.table("Data", ("stage", "source", "licence", "origin"), sources),
        markup.table("Stages", ("stage", "verb", "time", "status", "fingerprint"), stages),
    )


def _sources(stage: Stage) -> list[tuple[str, str, str, str]]:
    """(stage, source, licence, origin) of collected data, from its manifest."""
    licences = stage.manifest.get("licences") or {}
    return [(stage.name, source, facts["licence"], facts["origin"]) for source, facts in licences.items()]
