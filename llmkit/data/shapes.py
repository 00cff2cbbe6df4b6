"""What a record of each kind looks like, and how it is checked, cleaned, compared and split.

    documents      {id, source, text}
    conversations  {id, source, messages: [{role, content}, ...], answer?}
    pairs          {id, source, prompt: [{role, content}, ...], chosen, rejected, margin?}

Conversations end with a message of the assistant, prompts with one of the user.
"""

from typing import Any

from llmkit.data.clean import clean

ROLES = ("system", "user", "assistant")


TEXTS = {"documents": ("text",), "conversations": ("messages",), "pairs": ("prompt", "chosen", "rejected")}


def tidy(kind: str, record: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """-> (the record with its texts cleaned, None), or (record, why it is rejected)."""
    cleaned = {}
    for key in (*TEXTS[kind], *(key for key in ("answer", "margin") if key in record)):
        if record.get(key) is None:
            return record, f"no_{key}"
        cleaned[key], reason = _tidy_value(record[key], key)
        if reason:
            return record, reason
    if kind == "pairs" and cleaned["chosen"] == cleaned["rejected"]:
        return record, "equal_sides"
    return {**record, **cleaned}, None


def _tidy_value(value: Any, key: str) -> tuple[Any, str | None]:
    if key in ("messages", "prompt"):
        return _tidy_messages(value, last="assistant" if key == "messages" else "user")
    if key == "margin":
        return value, None if isinstance(value, (int, float)) else "margin_is_not_a_number"
    return clean(value) if isinstance(value, str) else (value, f"{key}_is_not_text")


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


def prompt(kind: str, record: dict[str, Any]) -> str:
    """What decides whether a record is held out: a document's text, or everything up to the first reply."""
    if kind == "documents":
        return record["text"]
    messages = record["messages" if kind == "conversations" else "prompt"]
    first = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
    return _spoken(messages[:first] or messages[:1])


def content(kind: str, record: dict[str, Any]) -> str:
    """All text of a record, by which duplicates are found."""
    if kind == "documents":
        return record["text"]
    if kind == "conversations":
        return _spoken(record["messages"])
    return "\n".join([_spoken(record["prompt"]), record["chosen"], record["rejected"]])


def _spoken(messages: list[dict[str, str]]) -> str:
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)
