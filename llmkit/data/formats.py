"""The shapes in which fine-tuning data is passed around, read into ours (shapes.py): a function for each.

    conversations   conversational, prompt_completion, alpaca, sharegpt
    pairs           explicit, implicit, ratings
    unpaired        unpaired
    prompts         prompt_only

A row is recognised by its fields; `format` names one instead. A field that no format knows ends the command
with one line, since what it meant would be lost silently. A row that has the fields and cannot be used is
rejected with a reason: `prompts_differ`, `unknown_role`, ...
"""

import difflib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llmkit.errors import DataError

Row = dict[str, Any]


class Format(NamedTuple):
    """A format: the kind of record it gives, the fields it must and may have, and what reads a row."""

    kind: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    read: Callable[[Row], Iterator[Row]]


class Useless(Exception):
    """A row that cannot be used; the argument is the reason under which it is counted."""


FORMATS: dict[str, Format] = {}
ALWAYS = ("id", "source", "licence", "license")
"""Fields that a row of any format may have."""


def format_of(kind: str, *needs: str, may: tuple[str, ...] = ()):
    """Decorator: the function reads rows with these fields, and its name is that of the format."""

    def keep(read):
        FORMATS[read.__name__] = Format(kind, needs, may, read)
        return read

    return keep


def converted(row: Row, kind: str, name: str = "auto", ignored: tuple[str, ...] = ()) -> Iterator[Row]:
    """`row` as records of `kind`, or as one `{id, unreadable}`. DataError for fields that nothing knows."""
    if "unreadable" in row:
        yield row
        return
    fields = {key: value for key, value in row.items() if value is not None and key not in ignored}
    facts = {key: row[key] for key in ALWAYS if key in row}
    if name == "auto":
        name = recognised(fields, kind)
    else:
        _check(fields, name)
    try:
        records = list(FORMATS[name].read(fields))
    except Useless as error:
        yield {**facts, "unreadable": str(error), "excerpt": str(row)[:200]}
        return
    for number, record in enumerate(records):
        own = {"id": f"{facts['id']}#{number}"} if len(records) > 1 and "id" in facts else {}
        yield {**facts, **own, **record}


def recognised(fields: Row, kind: str) -> str:
    """The format of `kind` that has all these fields. DataError, with the nearest, where none has."""
    off = {name: _off(fields, form) for name, form in FORMATS.items() if form.kind == kind}
    nearest = min(off, key=lambda name: sum(map(len, off[name])))
    if any(off[nearest]):
        _refuse(fields, nearest)
    return nearest


def _off(fields: Row, form: Format) -> tuple[list[str], list[str]]:
    """(fields that the format does not know, fields that it misses)."""
    odd = [key for key in fields if key not in (*form.needs, *form.may, *ALWAYS)]
    return odd, [key for key in form.needs if key not in fields]


def _check(fields: Row, name: str) -> None:
    if any(_off(fields, FORMATS[name])):
        _refuse(fields, name)


def _refuse(fields: Row, name: str) -> None:
    form = FORMATS[name]
    odd, missing = _off(fields, form)
    what = [f"needs {key}" for key in missing] + [f"knows no {key}" for key in odd]
    close = [match for key in odd for match in difflib.get_close_matches(key, (*form.needs, *form.may), 1)]
    hint = f"did you mean {close[0]}?" if close else "name another format, or list fields in ignore"
    known = ", ".join(other for other, one in FORMATS.items() if one.kind == form.kind)
    raise DataError(
        f"{fields.get('id', 'row')}: not of format {name}, which {', '.join(what)}; {hint} (known: {known})"
    )


# ---- conversations -----------------------------------------------------------------------------------------


@format_of("conversations", "messages", may=("answer",))
def conversational(row: Row) -> Iterator[Row]:
    """OpenAI's: messages of {role, content}."""
    yield {"messages": messages(row["messages"], empty="empty_conversation"), **_taken(row, "answer")}


@format_of("conversations", "prompt", "completion", may=("answer",))
def prompt_completion(row: Row) -> Iterator[Row]:
    """TRL's: a text or messages, and what follows."""
    yield {
        "messages": [*said(row["prompt"], "user"), *said(row["completion"], "assistant")],
        **_taken(row, "answer"),
    }


@format_of("conversations", "instruction", "output", may=("input", "system", "history"))
def alpaca(row: Row) -> Iterator[Row]:
    """Stanford Alpaca's, with LLaMA-Factory's system and history ([[asked, answered], ...])."""
    asked = "\n\n".join(text for text in (_text(row["instruction"]), _text(row.get("input", ""))) if text)
    turns = [said(row["system"], "system")] if row.get("system") else []
    for turn in row.get("history", []):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise Useless("history_is_not_pairs")
        turns.append([*said(turn[0], "user"), *said(turn[1], "assistant")])
    turns += [said(asked, "user"), said(row["output"], "assistant")]
    yield {"messages": [message for turn in turns for message in turn]}


SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@format_of("conversations", "conversations", may=("system",))
def sharegpt(row: Row) -> Iterator[Row]:
    """ShareGPT's: conversations of {from: human | gpt | system, value}."""
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Useless("messages_are_not_a_list")
    named = [{"role": SPEAKERS.get(turn.get("from")), "content": turn.get("value")} for turn in turns]
    opening = said(row["system"], "system") if row.get("system") else []
    yield {"messages": [*opening, *messages(named, empty="empty_conversation")]}


# ---- pairs -------------------------------------------------------------------------------------------------


@format_of("pairs", "prompt", "chosen", "rejected", may=("margin",))
def explicit(row: Row) -> Iterator[Row]:
    """A prompt and two replies; replies that repeat the prompt as messages are cut behind it."""
    prompt = said(row["prompt"], "user")
    replies = {side: _reply(row[side], prompt) for side in ("chosen", "rejected")}
    yield {"prompt": prompt, **replies, **_taken(row, "margin")}


@format_of("pairs", "chosen", "rejected", may=("margin",))
def implicit(row: Row) -> Iterator[Row]:
    """Two conversations that differ in their last message alone."""
    chosen, rejected = (messages(row[side], empty="empty_conversation") for side in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Useless("prompts_differ")
    if len(chosen) < 2:
        raise Useless("no_prompt")
    replies = {"chosen": _last(chosen), "rejected": _last(rejected)}
    yield {"prompt": chosen[:-1], **replies, **_taken(row, "margin")}


@format_of("pairs", "prompt", "replies", "ratings")
def ratings(row: Row) -> Iterator[Row]:
    """Several rated replies: the best is preferred to every worse one; the margin is their ratings' gap."""
    prompt, replies, rated = said(row["prompt"], "user"), row["replies"], row["ratings"]
    if not isinstance(replies, list) or not isinstance(rated, list) or len(replies) != len(rated):
        raise Useless("ratings_do_not_match_replies")
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in rated):
        raise Useless("ratings_are_not_numbers")
    order = sorted(range(len(rated)), key=lambda i: -rated[i])
    worse = [i for i in order if rated[i] < rated[order[0]]] if order else []
    if not worse:
        raise Useless("no_reply_is_better")
    for i in worse:
        gap = float(rated[order[0]] - rated[i])
        yield {
            "prompt": prompt,
            "chosen": _reply(replies[order[0]], prompt),
            "rejected": _reply(replies[i], prompt),
            "margin": gap,
        }


# ---- single replies and prompts ----------------------------------------------------------------------------


@format_of("unpaired", "prompt", "completion", "label")
def unpaired(row: Row) -> Iterator[Row]:
    """TRL's for KTO: one reply, and whether it is desirable."""
    prompt = said(row["prompt"], "user")
    yield {"prompt": prompt, "reply": _reply(row["completion"], prompt), "desirable": _judged(row["label"])}


@format_of("unpaired", "prompt", "reply", "desirable")
def rated(row: Row) -> Iterator[Row]:
    """Ours."""
    prompt = said(row["prompt"], "user")
    yield {"prompt": prompt, "reply": _reply(row["reply"], prompt), "desirable": _judged(row["desirable"])}


@format_of("prompts", "prompt", may=("answer",))
def prompt_only(row: Row) -> Iterator[Row]:
    """What is asked, and what a verifier compares the reply with."""
    yield {"prompt": said(row["prompt"], "user"), **_taken(row, "answer")}


# ---- their parts -------------------------------------------------------------------------------------------

ROLES = ("system", "user", "assistant")


def messages(value: Any, empty: str) -> list[dict[str, str]]:
    """`value` if it is messages of a known role with text; Useless says what is wrong with it."""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise Useless("messages_are_not_a_list")
    if not value:
        raise Useless(empty)
    for message in value:
        if message.get("role") not in ROLES:
            raise Useless("unknown_role")
        if not isinstance(message.get("content"), str):
            raise Useless("content_is_not_text")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def said(value: Any, role: str) -> list[dict[str, str]]:
    """Messages as they are, or one message of `role` that says `value`."""
    if isinstance(value, list):
        return messages(value, empty="empty_prompt")
    return [{"role": role, "content": _text(value)}]


def _reply(value: Any, prompt: list[dict[str, str]]) -> str:
    """The text of a reply to `prompt`, which may be given again with it."""
    if isinstance(value, str):
        return value
    found = messages(value, empty="empty_reply")
    if len(found) > 1 and found[:-1] != prompt:
        raise Useless("prompts_differ")
    return _last(found)


def _last(found: list[dict[str, str]]) -> str:
    if found[-1]["role"] != "assistant":
        raise Useless("reply_is_not_the_assistants")
    return found[-1]["content"]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Useless("content_is_not_text")
    return value


def _judged(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Useless("label_is_not_true_or_false")
    return value


def _taken(row: Row, *keys: str) -> Row:
    return {key: row[key] for key in keys if key in row}
