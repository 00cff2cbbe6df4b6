"""Texts that a net writes for an evaluation: replies to chat prompts, continuations of plain text."""

from typing import Any

from llmkit.data.pack import shifted
from llmkit.data.sets import text_pairs
from llmkit.eval.scoring import Reply
from llmkit.models.beam import search
from llmkit.models.generate import generate
from llmkit.tokenizer import chat, special

ROWS = 64
"""Prompts that are generated for at once. A reply does not depend on which prompts stand beside it."""


def write(
    opened: Any, prompts: list[list[int]], max_new: int, stop: list[int], beams: int = 1, **options
) -> list[list[int]]:
    """Token ids written after each of `prompts`, at most `max_new`; the stop token is left out.

    `options` are those of `llmkit.models.generate.stream`; with several `beams`, of `beam.search`.
    """
    if hasattr(opened.net, "encode"):
        options["start"] = [getattr(opened.tokenizer, opened.net.settings.start), *gap(opened)]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    written: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        asked = [prompts[i] for i in chosen]
        if beams > 1:
            some = search(opened.net, asked, max_new, beams=beams, stop=stop, **options)
        else:
            some = generate(opened.net, asked, max_new, stop=stop, keys=chosen, **options)
        for i, ids in zip(chosen, some, strict=True):
            written[i] = ids
    return written


def gap(opened: Any) -> list[int]:
    """The sentinel that a net tuned with `data.cloze` reads last and writes first; else nothing."""
    data = (opened.recipe or {}).get("data") or {}
    return special.sentinels(opened.tokenizer, 1, "data.cloze")[:1] if data.get("cloze") else []


def _cut(opened: Any, prompt: list[int], max_new: int) -> list[int]:
    """The end of `prompt` that leaves room for `max_new` tokens in the net's context."""
    return prompt[-max(1, opened.net.settings.context - max_new) :]


def _rendered(opened: Any, prompts: list[list[dict]], max_new: int) -> list[list[int]]:
    return [
        _cut(opened, chat.render(opened.tokenizer, prompt, open_reply=True)[0], max_new) for prompt in prompts
    ]


def replies(opened: Any, prompts: list[list[dict]], max_new: int, **options) -> list[str]:
    """The assistant's next message after each conversation; greedy unless `options` say otherwise."""
    ids = write(
        opened, _rendered(opened, prompts, max_new), max_new, chat.stop_ids(opened.tokenizer), **options
    )
    return [opened.tokenizer.decode(reply) for reply in ids]


def continuations(opened: Any, texts: list[str], max_new: int, **options) -> list[str]:
    """How the net goes on after each of `texts`, to the end of the document at most.

    An encoder-decoder reads them whole, between the marks that its pretraining puts around a source.
    """
    tokenizer = opened.tokenizer
    if hasattr(opened.net, "encode"):
        before = [tokenizer.bos] if opened.net.settings.style == "bart" else []
        around = (before, [*gap(opened), tokenizer.eos])
        room = opened.net.settings.context
        prompts = [text_pairs.source_of(tokenizer.encode(text), room, *around) for text in texts]
    else:
        prompts = [_cut(opened, [tokenizer.bos, *tokenizer.encode(text)], max_new) for text in texts]
    return [tokenizer.decode(ids) for ids in write(opened, prompts, max_new, [tokenizer.eos], **options)]


def drawn(opened: Any, prompts: list[list[dict]], max_new: int, seed: int) -> list[Reply]:
    """Replies drawn at temperature 1 from the whole distribution, stop token included, ready to score."""
    rendered, stop = _rendered(opened, prompts, max_new), set(chat.stop_ids(opened.tokenizer))
    out = []
    for prompt, ids in zip(
        rendered, write(opened, rendered, max_new, [], temperature=1.0, seed=seed), strict=True
    ):
        ends = next((i + 1 for i, token in enumerate(ids) if token in stop), len(ids))
        out.append(Reply(*shifted(prompt + ids[:ends], [0] * len(prompt) + [1] * ends)))
    return out


def written(opened: Any, texts: list[str], max_new: int, **options) -> list[str]:
    """What a net that was fine-tuned on pairs of texts writes for each of `texts`."""
    tokenizer, net = opened.tokenizer, opened.net
    if hasattr(net, "encode"):
        return continuations(opened, texts, max_new, **options)
    room = max(1, net.settings.context - max_new - 2)
    prompts = [
        text_pairs.prompt(tokenizer.encode(text)[:room], tokenizer.bos, tokenizer.eos) for text in texts
    ]
    return [tokenizer.decode(ids) for ids in write(opened, prompts, max_new, [tokenizer.eos], **options)]
