"""What the language models of a pipeline wrote to the same prompts, one below the other."""

from html import escape

from llmkit.report import markup
from llmkit.report.records import Roles

SPEAKERS = {"pretrain": "pretrained", "sft": "instructed", "dpo": "preferred"}
"""What the models are called, by the role of the stage that trained them."""

PLAIN = "The pretrained model continues these beginnings."
CHAT = "Every model replies to these messages; the pretrained one has never seen a chat."


def part(roles: Roles) -> markup.Part:
    """Continuations of plain text, then replies, from the `samples` tasks of all evaluations."""
    written: dict[bool, dict[str, list[tuple[str, str]]]] = {False: {}, True: {}}
    for role, speaker in SPEAKERS.items():
        evaluated = roles.evaluation(role)
        for task in evaluated.tasks.values() if evaluated else ():
            for sample in task.get("written", ()):
                written[task["chat"]].setdefault(sample["prompt"], []).append((speaker, sample["text"]))
    parts = []
    for chat, told in ((False, PLAIN), (True, CHAT)):
        if written[chat]:
            parts += [markup.paragraph(told), *(_sample(*item) for item in written[chat].items())]
    return markup.part("samples", "Samples", *parts)


def _tight(text: str) -> str:
    """`text` without the empty lines that make a page long."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _sample(prompt: str, said: list[tuple[str, str]]) -> str:
    lines = (
        f"<span class=speaker>{escape(speaker)}</span><span class=said>{escape(_tight(text))}</span>"
        for speaker, text in said
    )
    return f"<div class=sample><p class=prompt>{escape(prompt)}</p>{''.join(lines)}</div>"
