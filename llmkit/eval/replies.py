"""Texts that a net writes for an evaluation: replies to chat prompts, continuations of plain text."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmkit.data.pack import shifted
from llmkit.data.sets import text_pairs
from llmkit.errors import ConfigError
from llmkit.eval.scoring import Reply
from llmkit.models.beam import search
from llmkit.models.generate import generate
from llmkit.tokenizer import chat, special

ROWS = 64
"""Prompts that are generated for at once. A reply does not depend on which prompts stand beside it."""
CUT = "prompts_cut"
"""The figure that says how many prompts did not fit into the context whole."""


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


def room(opened: Any, max_new: int, frame: int = 0) -> int:
    """The tokens of a prompt that a context holds before `max_new` and `frame`; ConfigError if none."""
    context = opened.net.settings.context
    if (left := context - max_new - frame) < 1:
        raise ConfigError(
            f"max_new: {max_new} leave no room for a prompt in the context of {context} tokens; lower it"
        )
    return left


def _ends(opened: Any, prompts: list[list[int]], max_new: int, counts: Counter | None) -> list[list[int]]:
    """Of each of `prompts` the end that leaves room for `max_new` tokens in the net's context."""
    most = room(opened, max_new)
    _count(counts, (len(prompt) > most for prompt in prompts))
    return [prompt[-most:] for prompt in prompts]


def _count(counts: Counter | None, lost: Iterable[bool]) -> None:
    if counts is not None:
        counts[CUT] += sum(lost)


def _rendered(
    opened: Any, prompts: list[list[dict]], max_new: int, counts: Counter | None
) -> list[list[int]]:
    whole = [chat.render(opened.tokenizer, prompt, open_reply=True)[0] for prompt in prompts]
    return _ends(opened, whole, max_new, counts)


def replies(
    opened: Any, prompts: list[list[dict]], max_new: int, counts: Counter | None = None, **options
) -> list[str]:
    """The assistant's next message after each conversation; greedy unless `options` say otherwise.

    A conversation too long for the context loses its beginning, and is counted under CUT in `counts`.
    """
    rendered, stop = _rendered(opened, prompts, max_new, counts), chat.stop_ids(opened.tokenizer)
    return [opened.tokenizer.decode(ids) for ids in write(opened, rendered, max_new, stop, **options)]


def continuations(
    opened: Any, texts: list[str], max_new: int, counts: Counter | None = None, **options
) -> list[str]:
    """How the net goes on after each of `texts`, to the end of the document at most.

    A text too long for the context loses its beginning, and is counted as in `replies`. An encoder-decoder
    reads them between the marks that its pretraining puts around a source; there they lose their end.
    """
    tokenizer = opened.tokenizer
    spelt = [tokenizer.encode(text) for text in texts]
    if hasattr(opened.net, "encode"):
        before = [tokenizer.bos] if opened.net.settings.style == "bart" else []
        around = (before, [*gap(opened), tokenizer.eos])
        context = opened.net.settings.context
        prompts = [text_pairs.source_of(ids, context, *around) for ids in spelt]
        _count(counts, (len(ids) + sum(map(len, around)) > context for ids in spelt))
    else:
        prompts = _ends(opened, [[tokenizer.bos, *ids] for ids in spelt], max_new, counts)
    return [tokenizer.decode(ids) for ids in write(opened, prompts, max_new, [tokenizer.eos], **options)]


def drawn(
    opened: Any, prompts: list[list[dict]], max_new: int, seed: int, counts: Counter | None = None
) -> list[Reply]:
    """Replies drawn at temperature 1 from the whole distribution, stop token included, ready to score."""
    rendered, stop = _rendered(opened, prompts, max_new, counts), set(chat.stop_ids(opened.tokenizer))
    out = []
    for prompt, ids in zip(
        rendered, write(opened, rendered, max_new, [], temperature=1.0, seed=seed), strict=True
    ):
        ends = next((i + 1 for i, token in enumerate(ids) if token in stop), len(ids))
        out.append(Reply(*shifted(prompt + ids[:ends], [0] * len(prompt) + [1] * ends)))
    return out


def written(
    opened: Any, texts: list[str], max_new: int, counts: Counter | None = None, **options
) -> list[str]:
    """What a net that was fine-tuned on pairs of texts writes for each of `texts`.

    One too long for the context loses its end, as in training, and is counted as in `replies`.
    """
    tokenizer, net = opened.tokenizer, opened.net
    if hasattr(net, "encode"):
        return continuations(opened, texts, max_new, counts, **options)
    most, spelt = room(opened, max_new, frame=2), [tokenizer.encode(text) for text in texts]
    _count(counts, (len(ids) > most for ids in spelt))
    prompts = [text_pairs.prompt(ids[:most], tokenizer.bos, tokenizer.eos) for ids in spelt]
    return [tokenizer.decode(ids) for ids in write(opened, prompts, max_new, [tokenizer.eos], **options)]
