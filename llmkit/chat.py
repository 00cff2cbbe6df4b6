"""`llmkit chat CKPT`: talk to a model in the terminal; replies appear as they are generated.

    you> a line ─► history + chat template ─► stream of tokens ─► text as soon as its bytes are complete

The conversation (history, what is forgotten, how a reply is drawn) is a class; the terminal is thin.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console

from llmkit import dist
from llmkit.errors import ConfigError
from llmkit.generating import checked
from llmkit.models.generate import stream
from llmkit.opened import Opened, open_model
from llmkit.tokenizer import chat as template

HELP = "/reset forgets the conversation, /undo the last exchange, /temperature X, /exit (or ctrl-d) ends"


@dataclass
class Conversation:
    """Messages so far, and how the next reply is drawn. A full context forgets the oldest exchanges."""

    opened: Opened
    system: str | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 256
    seed: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)
    forgotten: int = 0
    """Messages that no longer fit into the model's context."""

    def reset(self) -> None:
        self.messages, self.forgotten = [], 0

    def undo(self) -> None:
        """Take back the last message and its reply."""
        self.messages = self.messages[:-2]
        self.forgotten = min(self.forgotten, len(self.messages))

    def reply(self, text: str) -> Iterator[str]:
        """Say `text`; yields the reply piece by piece, and remembers both once it is complete."""
        asked = [*self.messages, {"role": "user", "content": text}]
        prompt = self._prompt(asked)
        tokenizer, ids, said = self.opened.tokenizer, [], ""
        room = self.opened.net.settings.context - len(prompt)
        steps = stream(
            self.opened.net,
            [prompt],
            min(self.max_tokens, room),
            temperature=self.temperature,
            top_p=self.top_p,
            stop=template.stop_ids(tokenizer),
            seed=self.seed,
            keys=[len(self.messages)],
        )
        for (token,) in steps:
            ids.append(token)
            text_so_far = tokenizer.decode(ids)
            if not text_so_far.endswith("\ufffd"):  # the bytes of a character may still be on their way
                yield text_so_far[len(said) :]
                said = text_so_far
        whole = tokenizer.decode(ids)
        yield whole[len(said) :]
        self.messages = [*asked, {"role": "assistant", "content": whole}]

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of `messages`, less the oldest exchanges that leave no room for a reply in the context."""
        context = self.opened.net.settings.context
        reserve = min(self.max_tokens, context // 4)
        system = [{"role": "system", "content": self.system}] if self.system else []
        while True:
            shown = system + messages[self.forgotten :]
            ids, _ = template.render(self.opened.tokenizer, shown, open_reply=True)
            if len(ids) + reserve <= context:
                return ids
            if self.forgotten + 2 > len(messages) - 1:
                raise ConfigError(
                    f"message: {len(ids)} tokens leave no room in a context of {context}; shorten"
                )
            self.forgotten += 2


def chat(
    ckpt: str,
    *,
    temperature: float = 0.7,
    top_p: float = 0.95,
    max_tokens: int | None = None,
    seed: int = 0,
    system: str | None = None,
    device: str = "auto",
) -> None:
    """Converse with the language model in `ckpt` until /exit, end of input or ctrl-c.

    A reply has at most `max_tokens` tokens; default: half of the context, 256 at most.
    """
    opened = open_model(ckpt, head="lm", device=dist.start(device))
    max_tokens = max_tokens or min(256, opened.net.settings.context // 2)
    max_tokens = checked(opened, max_tokens, temperature, top_p)
    template.stop_ids(opened.tokenizer)  # DataError here and now if there is no chat template
    talk = Conversation(opened, system, temperature, top_p, max_tokens, seed)
    console = Console(highlight=False)
    console.print(f"{opened.path}. {HELP}.", style="dim")
    while (line := _ask(console)) is not None:
        if line.startswith("/"):
            if not _command(talk, line, console):
                return
        elif line:
            _say(talk, line, console)


def _ask(console: Console) -> str | None:
    """The next line; None at the end of input."""
    try:
        return console.input("[bold]you>[/bold] ").strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return None


def _say(talk: Conversation, line: str, console: Console) -> None:
    """Print the reply to `line` as it comes. ctrl-c ends the reply, not the conversation."""
    before = talk.forgotten
    console.print("model> ", style="bold cyan", end="")
    try:
        for piece in talk.reply(line):
            console.print(piece, end="", markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(" (stopped; not remembered)", style="dim", end="")
    except ConfigError as error:
        console.print(f"({error})", style="red", markup=False, end="")
    console.print()
    if talk.forgotten > before:
        console.print(f"({talk.forgotten} old messages no longer fit and are forgotten)", style="dim")


def _command(talk: Conversation, line: str, console: Console) -> bool:
    """Obey a /command -> False if the conversation is over."""
    word, _, value = line.partition(" ")
    if word in ("/exit", "/quit"):
        return False
    if word == "/reset":
        talk.reset()
    elif word == "/undo":
        talk.undo()
    elif word == "/temperature" and value.replace(".", "", 1).isdigit():
        talk.temperature = float(value)
    else:
        console.print(HELP, style="dim", markup=False)
    return True
