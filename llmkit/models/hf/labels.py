"""Heads of labels in Hugging Face's terms: their parameters' names, id2label, problem_type.

classify_head.weight ◄─► classifier.weight (BERT, ModernBERT), score.weight (decoders)
score_head.weight    ◄─► classifier.weight, of one row (an encoder's reward model)
tag_head.weight      ◄─► classifier.weight, score.weight
span_head.weight     ◄─► qa_outputs.weight, classifier.weight (ModernBERT)
"""

from typing import Any

from torch import nn

from llmkit.models.heads import LABELLED, LabelNet

ENDS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""How the names of their architectures end, in the order of LABELLED."""


STATED = {"architectures": list, "id2label": dict, "problem_type": str}
"""What is read in config.json, with the types."""


def owns(name: str) -> bool:
    """Whether a parameter of ours is the matrix or the bias of a head of labels."""
    return name.startswith(tuple(f"{head}_head." for head in (*LABELLED, "score")))


def theirs(names: dict[str, str], name: str) -> str:
    """A parameter of such a head as theirs; `names` has their module's name by head."""
    module, _, leaf = name.partition(".")
    return f"{names[module.removesuffix('_head')]}.{leaf}"


def ours(names: dict[str, str], head: str, name: str) -> str | None:
    """A parameter of theirs as that of the head; None if it belongs to something else."""
    module, _, leaf = name.rpartition(".")
    return f"{head}_head.{leaf}" if module == names[head] else None


def config(net: nn.Module, head: str) -> dict[str, Any]:
    """What config.json says about the outputs of `net`; nothing for a head that has no labels."""
    if head == "score":
        return {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
    if not isinstance(net, LabelNet):
        return {}
    said = {"id2label": {str(i): label for i, label in enumerate(net.labels)}}
    said["label2id"] = {label: i for i, label in enumerate(net.labels)}
    if head == "classify":
        said["problem_type"] = ("multi" if net.several else "single") + "_label_classification"
    return said


def head_in(stated: dict[str, Any]) -> str | None:
    """The head that config.json's architecture has, if it is one of labels."""
    name = next(iter(stated.get("architectures") or []), "")
    return next((head for head, end in zip(LABELLED, ENDS, strict=True) if str(name).endswith(end)), None)


def settle(net: LabelNet, stated: dict[str, Any]) -> None:
    """Give `net` the names of its labels, as config.json states them."""
    names = stated.get("id2label") or {}
    net.labels = [str(names.get(str(i), label)) for i, label in enumerate(net.labels)]
    net.several = stated.get("problem_type") == "multi_label_classification"
