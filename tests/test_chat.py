"""Text in, text out: generation by the verb and the terminal chat."""

import pytest

from llmkit import chat
from llmkit.chat import Conversation
from llmkit.errors import CheckpointError, ConfigError
from llmkit.eval.replies import replies
from llmkit.generating import generate
from llmkit.models.hf import importing
from llmkit.opened import open_model
from tests.nets import random_net


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer_dir) -> str:
    folder = tmp_path_factory.mktemp("run")
    importing.save(random_net(), folder, tokenizer_dir, {"sources": {}})
    return str(folder)


@pytest.fixture
def talk(run) -> Conversation:
    return Conversation(open_model(run), temperature=0.0, max_tokens=16)


def test_generate_continues_each_prompt_the_same_whatever_stands_beside_it(run):
    options = {"max_tokens": 12, "seed": 3, "device": "cpu"}
    together = generate(run, ["a licence", "You may", "Source form"], **options)
    assert together[:1] == generate(run, "a licence", **options)
    assert together != generate(run, ["a licence", "You may", "Source form"], **{**options, "seed": 4})
    assert generate(run, "You may", chat=True, **options) != together[1:2]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"max_tokens": 0}, "--max-tokens"), ({"temperature": -1}, "--temperature"), ({"top_p": 0}, "--top-p")],
)
def test_an_option_out_of_range_is_named(run, options, says):
    with pytest.raises(ConfigError, match=says):
        generate(run, "a", **options)


def test_more_tokens_than_the_context_holds_is_a_warning(run, capsys):
    generate(run, "a", max_tokens=128, device="cpu")
    assert "64 are used" in capsys.readouterr().err


def test_a_reward_model_does_not_generate(tmp_path, tokenizer_dir):
    importing.save(random_net("score"), tmp_path, tokenizer_dir, {"sources": {}})
    with pytest.raises(CheckpointError, match="language model is needed"):
        generate(str(tmp_path), "a")


def test_streamed_pieces_add_up_to_the_reply_and_are_remembered(talk):
    pieces = list(talk.reply("What is a licence?"))
    asked = [{"role": "user", "content": "What is a licence?"}]
    assert "".join(pieces) == replies(talk.opened, [asked], 16)[0]
    assert len(pieces) > 2
    assert talk.messages == [*asked, {"role": "assistant", "content": "".join(pieces)}]
    first = "".join(pieces)
    assert "".join(talk.reply("And?")) != first
    talk.undo()
    assert len(talk.messages) == 2
    talk.reset()
    assert "".join(talk.reply("What is a licence?")) == first


def test_no_half_character_is_shown(talk):
    talk.max_tokens = 60
    pieces = list(talk.reply("\U0001f642"))  # a wild net spells many bytes that are no characters
    whole = talk.messages[-1]["content"]
    assert "".join(pieces) == whole
    assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])


def test_the_oldest_exchanges_are_forgotten_when_the_context_is_full(talk):
    for _ in range(5):
        list(talk.reply("a longer question about the licence, its source form and its terms"))
    assert talk.forgotten > 0
    assert len(talk.messages) == 10
    with pytest.raises(ConfigError, match="leave no room"):
        list(talk.reply("licence " * 200))
    assert len(talk.messages) == 10


def test_the_terminal_chat_obeys_commands_and_survives_a_bad_line(run, monkeypatch, capsys):
    lines = iter(
        ["Hello", "/temperature 0", "/what", "licence " * 200, "/reset", "", "Hello", "/exit", "never"]
    )
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    chat.chat(run, max_tokens=8, device="cpu")
    shown = capsys.readouterr().out
    assert shown.count("model> ") == 3
    assert "leave no room" in shown
    assert shown.count("/undo") == 2
    assert list(lines) == ["never"]


def test_the_terminal_chat_ends_with_its_input(run, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: (_ for _ in ()).throw(EOFError))
    chat.chat(run, device="cpu")
