"""Messages to token ids through the tokenizer's own jinja template, with marks on what is learned.

    messages -> template over placeholders -> text with marks -> cut at control tokens -> ids, mask
                (nobody's text is in it)

The template never sees what people wrote: it is rendered over placeholders, which are filled in
afterwards. So control tokens come from the template alone, and `<|end|>` typed by a user is seven
characters. The template is data that may come with a foreign checkpoint: it runs in jinja's immutable
sandbox, with a limit on its size. What is not handled is a template that loops for hours.
"""

import functools
import re

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from llmkit.errors import DataError
from llmkit.tokenizer.vocabulary import Tokenizer

ROLES = ("system", "user", "assistant")
MAX_TEMPLATE = 100_000
"""Characters; the longest template in wide use has about 15,000."""

_HOLE = "\ue000{}\ue001"
_OPEN, _CLOSE = "\ue002", "\ue003"
_MARKS = re.compile(r"{%-?\s*generation\b")


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: what the model learns to say."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller):
        return _OPEN + caller() + _CLOSE


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, without the multiplication that makes a terabyte out of one character."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context, operator, left, right):
        if operator == "**" or not isinstance(left, int) or not isinstance(right, int):
            raise SecurityError(f"{operator} is for whole numbers only")
        return left * right


def _raise(message):
    raise TemplateError(message)


@functools.lru_cache(8)
def _compiled(template: str):
    if len(template) > MAX_TEMPLATE:
        raise DataError(
            f"chat_template.jinja: {len(template)} characters; at most {MAX_TEMPLATE} are accepted"
        )
    extensions = [Generation, "jinja2.ext.loopcontrols"]
    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    sandbox.globals["raise_exception"] = _raise
    try:
        return sandbox.from_string(template)
    except TemplateError as error:
        raise DataError(f"chat_template.jinja, line {getattr(error, 'lineno', '?')}: {error}") from None


def markers(template: str) -> list[str]:
    """The control tokens that a template spells out, `<|like_this|>`, in order of appearance."""
    return list(dict.fromkeys(re.findall(r"<\|\w+\|>", template)))


def render(
    tokenizer: Tokenizer, messages: list[dict], open_reply: bool = False
) -> tuple[list[int], list[int]]:
    """-> (ids, mask), equally long; mask is 1 where the token belongs to an assistant's reply or ends it.

    `messages` are `{role, content}`; `open_reply` adds what comes before the next reply, to generate
    from. A longer conversation's ids begin with those of its beginning. DataError for roles or templates
    that cannot be rendered.
    """
    ids: list[int] = []
    mask: list[int] = []
    run, learned = "", 0

    def flush():
        new = tokenizer.encode(run) if run else []
        ids.extend(new)
        mask.extend([learned] * len(new))

    for part in _rendered(tokenizer, messages, open_reply):
        if part in (_OPEN, _CLOSE):
            flush()
            run, learned = "", int(part == _OPEN)
        elif part in tokenizer.specials:
            flush()
            run = ""
            ids.append(tokenizer.specials[part])
            mask.append(learned)
        elif part.startswith(_HOLE[0]):
            run += messages[int(part[1:-1])]["content"]
        else:
            run += part
    flush()
    return ids, mask


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that end a reply: EOS, and the last token that the template makes an assistant say."""
    ids, mask = render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}])
    learned = [i for i, flag in zip(ids, mask, strict=True) if flag]
    last = [learned[-1]] if learned and learned[-1] in tokenizer.specials.values() else []
    return list(dict.fromkeys([tokenizer.eos, *last]))


def _rendered(tokenizer: Tokenizer, messages: list[dict], open_reply: bool) -> list[str]:
    """The template's text, with a placeholder wherever somebody's content belongs, in parts."""
    for i, message in enumerate(messages):
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise DataError(
                f"messages[{i}]: needs a role ({', '.join(ROLES)}) and text as content: {message!r:.80}"
            )
    roles, specials = tuple(m["role"] for m in messages), tuple(tokenizer.specials.items())
    template = tokenizer.chat_template
    try:
        return _parts(template, roles, open_reply, tokenizer.bos, tokenizer.eos, specials)
    except DataError:
        raise
    except Exception as error:  # a foreign template may raise anything
        raise DataError(f"{tokenizer.folder / 'chat_template.jinja'}: {error}") from None


def _marked(text: str, roles: tuple[str, ...], specials: list[str]) -> str:
    """The text of a template without marks, as foreign ones are, with them: on replies, each with the control
    token right behind it.
    """
    end = "|".join(map(re.escape, specials))
    for i, role in enumerate(roles):
        if role == "assistant":
            text = re.sub(f"{_HOLE.format(i)}(?:{end})?", lambda found: _OPEN + found[0] + _CLOSE, text)
    return text


@functools.lru_cache(2048)
def _parts(
    template: str, roles: tuple[str, ...], open_reply: bool, bos: int, eos: int, ids: tuple
) -> list[str]:
    """Placeholders, marks, control tokens and the text between them: kept, since roles alone decide them."""
    names = {i: text for text, i in ids}
    special = {"bos_token": names.get(bos, ""), "eos_token": names.get(eos, "")}
    holes = [{"role": role, "content": _HOLE.format(i)} for i, role in enumerate(roles)]
    text = _compiled(template).render(messages=holes, add_generation_prompt=open_reply, **special)
    specials = sorted(names.values(), key=len, reverse=True)
    if not _MARKS.search(template):
        text = _marked(text, roles, specials)
    pattern = "|".join(["\ue000\\d+\ue001", _OPEN, _CLOSE, *map(re.escape, specials)])
    return [part for part in re.split(f"({pattern})", text) if part]
