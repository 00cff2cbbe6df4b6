"""What a record of each kind looks like, and how it is checked, cleaned, compared and split.

    documents      {id, source, licence, text}; the others begin alike
    conversations  {..., messages: [{role, content}, ...], answer?}
    pairs          {..., prompt: [{role, content}, ...], chosen, rejected, margin?}
    unpaired       {..., prompt: [{role, content}, ...], reply, desirable}   true or false
    prompts        {..., prompt: [{role, content}, ...], answer?}
    labelled       {..., text, pair?, label}          a label is a name, or a list of names
    tagged         {..., tokens: [...], tags: [...]}  one tag to a token: entities, parts of speech
    text_pairs     {..., input, target}               translation, summarisation
    questions      {..., question, context, answers: [...]}   the context may be empty

Every record has its id, its source and its licence (a name such as CC-BY-4.0, or what its source says).
Conversations end with a message of the assistant, prompts with one of the user.
"""

from collections import Counter
from typing import Any, Literal

from llmkit.data.clean import clean

ROLES = ("system", "user", "assistant")

Kind = Literal[
    "documents", "conversations", "pairs", "unpaired", "prompts",
    "labelled", "tagged", "text_pairs", "questions",
]  # fmt: skip
TEXTS: dict[str, tuple[str, ...]] = {
    "documents": ("text",),
    "conversations": ("messages",),
    "pairs": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "reply", "desirable"),
    "prompts": ("prompt",),
    "labelled": ("text", "label"),
    "tagged": ("tokens", "tags"),
    "text_pairs": ("input", "target"),
    "questions": ("question", "context", "answers"),
}
"""What every record of a kind has, beside its id and source."""
OPTIONAL = {
    "conversations": ("answer",),
    "prompts": ("answer",),
    "pairs": ("margin",),
    "labelled": ("pair",),
}
LICENCE = ("licence", "license")
"""Keys of a row's own licence."""
MAX_LICENCE = 100
LISTS = ("tokens", "tags", "answers")


def chosen(kind: str, row: dict[str, Any], text: str = "text") -> dict[str, Any]:
    """What a record of `kind` needs out of a row of a file or table; `text` names a document's text there."""
    taken = {"text": row.get(text)} if kind == "documents" else {k: row[k] for k in keys(kind) if k in row}
    return {**{key: row[key] for key in LICENCE if key in row}, **taken}


def keys(kind: str, text: str = "text") -> list[str]:
    """The keys or columns of what a record of the kind holds."""
    return [*LICENCE, *([text] if kind == "documents" else [*TEXTS[kind], *OPTIONAL.get(kind, ())])]


def licence(record: dict[str, Any], source: str) -> str:
    """The licence of a record: its own, taken out of it, or its source's."""
    own = [record.pop(key) for key in LICENCE if key in record]
    names = (" ".join(name.split())[:MAX_LICENCE] for name in own if isinstance(name, str))
    return next((name for name in names if name), source)


def tidy(kind: str, record: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """-> (the record with its texts cleaned, None), or (record, why it is rejected)."""
    cleaned = {}
    for key in (*TEXTS[kind], *(key for key in OPTIONAL.get(kind, ()) if key in record)):
        if record.get(key) is None:
            return record, f"no_{key}"
        cleaned[key], reason = _tidy_value(record[key], key)
        if reason:
            return record, reason
    if kind == "pairs" and cleaned["chosen"] == cleaned["rejected"]:
        return record, "equal_sides"
    if kind == "tagged" and len(cleaned["tokens"]) != len(cleaned["tags"]):
        return record, "tags_do_not_match_tokens"
    return {**record, **cleaned}, None


def _tidy_value(value: Any, key: str) -> tuple[Any, str | None]:
    if key in ("messages", "prompt"):
        return _tidy_messages(value, last="assistant" if key == "messages" else "user")
    if key == "margin":
        return value, None if isinstance(value, (int, float)) else "margin_is_not_a_number"
    if key == "desirable":
        return value, None if isinstance(value, bool) else "desirable_is_not_true_or_false"
    if key == "label" and isinstance(value, int):
        value = str(value)
    if key == "context" and value == "":
        return value, None
    if key == "label" and value == []:
        return value, None  # none of several labels
    if key in LISTS or (key == "label" and isinstance(value, list)):
        return _tidy_list(value, key)
    return clean(value) if isinstance(value, str) else (value, f"{key}_is_not_text")


def _tidy_list(values: Any, key: str) -> tuple[Any, str | None]:
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        return values, f"{key}_are_not_a_list_of_texts"
    plain = all(value.isascii() and value.isprintable() and value.strip() for value in values)
    tidied = [(value, None) for value in values] if plain else [clean(value) for value in values]
    return [value for value, _ in tidied], next((reason for _, reason in tidied if reason), None)


def _tidy_messages(messages: Any, last: str) -> tuple[Any, str | None]:
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return messages, "messages_are_not_a_list"
    tidied = []
    for message in messages:
        if message.get("role") not in ROLES:
            return messages, "unknown_role"
        if not isinstance(message.get("content"), str):
            return messages, "content_is_not_text"
        content, reason = clean(message["content"])
        if reason:
            return messages, reason
        tidied.append({"role": message["role"], "content": content})
    while last == "assistant" and tidied and tidied[-1]["role"] != last:
        tidied.pop()  # nobody answered it, so there is nothing to learn from it
    if not tidied or tidied[-1]["role"] != last:
        return messages, f"no_message_of_{last}"
    return tidied, None


def numbered(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`records`, where an id that comes again has a number behind it: two sources may use the same ids."""
    times: Counter = Counter()
    for record in records:
        name = record.get("id")
        times[name] += 1
        if times[name] > 1:
            record["id"] = f"{name}#{times[name]}"
    return records


def prompt(kind: str, record: dict[str, Any]) -> str:
    """What decides whether a record is held out: what is asked, without the answer, label or target."""
    if kind in ("conversations", "pairs", "unpaired", "prompts"):
        messages = record["messages" if kind == "conversations" else "prompt"]
        first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
        return _spoken(messages[:first] or messages[:1])
    if kind == "questions":
        return record["context"] or record["question"]  # questions about one passage stay on one side
    return _joined(record[TEXTS[kind][0]])


def content(kind: str, record: dict[str, Any]) -> str:
    """All text of a record, by which duplicates are found."""
    also = [key for key in OPTIONAL.get(kind, ()) if key == "pair" and key in record]
    return "\n".join(_joined(record[key]) for key in (*TEXTS[kind], *also) if key != "desirable")


def _joined(value: Any) -> str:
    if isinstance(value, str):
        return value
    return _spoken(value) if value and isinstance(value[0], dict) else " ".join(value)


def _spoken(messages: list[dict[str, str]]) -> str:
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)
