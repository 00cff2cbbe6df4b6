"""README.md of an exported directory: what the model is, its sources, its proof, its limits."""

import re
from pathlib import Path
from typing import Any

import yaml

from llmkit.config import parse_yaml
from llmkit.models import size
from llmkit.opened import Opened

SMALL = 1_000_000_000
"""Parameters below which a language model should not be expected to know or to reason about anything much."""

PIPELINES = {
    "lm": "text-generation",
    "score": "text-classification",
    "masked": "fill-mask",
    "seq2seq": "text2text-generation",
    "classify": "text-classification",
    "tag": "token-classification",
    "span": "question-answering",
}
"""The pipeline of transformers that runs a net, by its head."""
WHAT = {
    "lm": "decoder-only language model",
    "chat": "decoder-only language model tuned to answer",
    "score": "reward model",
    "masked": "masked language model",
    "seq2seq": "encoder-decoder",
    "classify": "classifier of texts",
    "tag": "tagger of words",
    "span": "finder of answers in a passage",
}
USE = {
    "lm": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
ids = tokenizer({prompt}, return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=64)[0]))""",
    "chat": """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
messages = [{{"role": "user", "content": "How are you?"}}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
reply = model.generate(torch.tensor([ids]), max_new_tokens=64)[0, len(ids):]
print(tokenizer.decode(reply, skip_special_tokens=True))""",
    "score": """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSequenceClassification.from_pretrained("{name}")
messages = [{{"role": "user", "content": "How are you?"}}, {{"role": "assistant", "content": "Fine."}}]
ids = tokenizer.apply_chat_template(messages, return_dict=False)
print(model(torch.tensor([ids])).logits[0, 0].item())  # higher is better; only differences mean something""",
    **{
        head: f"""\
from transformers import pipeline

print(pipeline("{task}", "{{name}}")({{prompt}}))"""
        for head, task in PIPELINES.items()
        if head not in ("lm", "score")
    },
}


ADAPTER = """\
from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained("{base}"{labels})  # any directory that holds the same base
model = PeftModel.from_pretrained(base, "{name}")"""
AUTO = {
    "lm": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "score": "AutoModelForSequenceClassification",
    "classify": "AutoModelForSequenceClassification",
    "tag": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}


def use(opened: Opened, figures: dict[str, Any], kind: str, name: str) -> str:
    """A program that runs what was exported: a model, or an adapter on its base."""
    if "base" not in figures:
        return USE[kind].format(name=name, prompt=repr("My fellow citizens"))
    count = 1 if opened.head == "score" else len(getattr(opened.net, "labels", ()))
    labels = f", num_labels={count}" if count else ""
    return ADAPTER.format(auto=AUTO[opened.head], base=figures["base"], labels=labels, name=name)


def write(out: Path, opened: Opened, figures: dict[str, Any], title: str, evaluation: dict | None) -> None:
    """Write `out`/README.md. `figures` are the gate's; `evaluation` is the report.json of `llmkit eval`."""
    stages = history(opened)
    tuned = any(stage["objective"] not in ("causal", "reward") for stage in stages)
    kind = "chat" if opened.head == "lm" and tuned else opened.head
    parts = [
        front_matter(opened, figures),
        f"# {title}",
        summary(opened, figures, kind),
        "## Use",
        "In this directory, or with its path in place of `.`:",
        f"```python\n{use(opened, figures, kind, '.')}\n```",
        "## Data and licences",
        sources_table(opened.lineage.get("sources") or {}),
        "## Training",
        training(stages),
        *(["## Evaluation", metrics(evaluation)] if evaluation else []),
        "## Proof of this export",
        proof(figures),
        "## Limitations",
        limitations(opened, kind),
    ]
    (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def history(opened: Opened) -> list[dict[str, Any]]:
    """The training runs behind a checkpoint, oldest first, as far as their directories are still there."""
    stages, recipe = [], opened.recipe
    while recipe:
        run, data, optim = (recipe.get(section) or {} for section in ("run", "data", "optim"))
        stages.append(
            {
                "objective": (recipe.get("objective") or {}).get("name", "imported"),
                "steps": run.get("steps"),
                "rows": (recipe.get("batch") or {}).get("rows"),
                "tokens a row": data.get("seq_len"),
                "optimizer": optim.get("name"),
                "peak lr": optim.get("lr"),
                "seed": run.get("seed"),
            }
        )
        recipe = parent(recipe.get("init"))
    return stages[::-1]


def parent(init: str | None) -> dict[str, Any] | None:
    """The recipe of the run or checkpoint that a run started from; None if there is none, or it is gone."""
    path = Path(init or "") / "recipe.yaml"
    return parse_yaml(path.read_text(encoding="utf-8"), str(path)) if init and path.is_file() else None


def front_matter(opened: Opened, figures: dict[str, Any]) -> str:
    """The YAML that the Hub reads. A licence is stated if all sources have the same one."""
    licences = {str(facts.get("licence")) for facts in (opened.lineage.get("sources") or {}).values()}
    agreed = len(licences) == 1 and re.fullmatch(r"[A-Za-z]+[\w.+-]*", next(iter(licences)))
    facts = {
        "library_name": "peft" if "base" in figures else "transformers",
        **({"base_model": figures["base"]} if "base" in figures else {}),
        "pipeline_tag": PIPELINES[opened.head],
        "license": licences.pop().lower() if agreed else "other",
        "tags": ["llmkit"],
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---"


def summary(opened: Opened, figures: dict[str, Any], kind: str) -> str:
    """What it is, in one sentence."""
    s = opened.net.settings
    return (
        f"A {WHAT[kind]} of {size.parameters(opened.net) / 1e6:.1f} million parameters "
        f"({s.layers} layers, width {s.width}, vocabulary {s.vocab_size}, context {s.context} tokens), "
        f"made with llmkit and stored as `{figures['architecture']}` in {figures['dtype']}."
    )


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; None is an empty cell."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join("" if c is None else str(c) for c in row) + " |" for row in cells)


def sources_table(sources: dict[str, dict]) -> str:
    """One row a source: its name, licence and origin, as the manifests of the data state them."""
    if not sources:
        return "The checkpoint does not say what it was trained on."
    rows = [
        [name, facts.get("licence", "not stated"), facts.get("origin")] for name, facts in sources.items()
    ]
    return table(["source", "licence", "origin"], rows)


def training(stages: list[dict[str, Any]]) -> str:
    """One row a run, oldest first."""
    if not stages:
        return "This directory was not trained by llmkit, only converted."
    return table(list(stages[0]), [list(stage.values()) for stage in stages])


def metrics(evaluation: dict) -> str:
    """The headline of every task that was measured, with its 95 % interval where there is one."""
    rows = []
    for label, task in evaluation["tasks"].items():
        value, interval = task.get(task["headline"]), task.get("ci95")
        if isinstance(value, float):
            between = f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else None
            rows.append([label, task["headline"], f"{value:.4g}", between])
    return table(["task", "metric", "value", "95 % interval"], rows)


def proof(figures: dict[str, Any]) -> str:
    """What the gate compared, in sentences."""
    lines = [
        f"Reloaded from disk by transformers {figures['transformers']}, in a process without llmkit, "
        f"fp32 logits differ by at most {figures['max_abs_logit_diff']:.1e}; "
        f"{figures['tolerance']:.0e} is allowed."
    ]
    if figures["greedy_tokens"]:
        lines.append(f"{figures['greedy_tokens']} greedily generated tokens are equal.")
    if "lines" in figures:
        texts = f"{figures['lines']} held-out lines and {figures['strings']} awkward strings"
        lines.append(f"Token ids are equal on {texts}.")
    return " ".join(lines) + " All figures are in `export_report.json`."


def limitations(opened: Opened, kind: str) -> str:
    """What nobody should expect of it, in plain words."""
    points = [
        "It repeats the style, the errors and the prejudices of its sources, listed above.",
        f"It reads at most {opened.net.settings.context} tokens; beyond that its output is meaningless.",
        "It has not been tested for safety. Do not let it advise or decide about people.",
    ]
    if (opened.recipe or {}).get("quick"):
        points.insert(
            0, "It is a smoke run (`--quick`): it has learned nothing, and its figures mean nothing."
        )
    if size.parameters(opened.net) < SMALL:
        points.insert(
            0, "It is small: its text looks fluent, but no fact or calculation in it can be relied on."
        )
    if kind == "score":
        points.insert(
            0, "A score says which of two replies is more like the preferred ones, not which is true."
        )
    return "\n".join(f"- {point}" for point in points)
