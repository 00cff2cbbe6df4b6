"""Prompts: the conversation up to the reply, the record beside it, a stream for every time it comes up."""

import pytest

from llmkit.data.sets.prompts import Prompts
from llmkit.errors import ConfigError, DataError
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder
from llmkit.objectives.rl import rollout
from llmkit.tokenizer import chat
from tests.data.sets.conftest import collected
from tests.objectives.rl import small


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("prompts") / "lists"
    small.lists(folder)
    return str(folder)


def opened(data, tokenizer_dir, seed=1, **settings) -> Prompts:
    return Prompts(Prompts.Settings(data=data, tokenizer=str(tokenizer_dir), **settings), "train", seed)


def test_a_prompt_ends_where_the_reply_begins(data, tokenizer_dir):
    prompts = opened(data, tokenizer_dir)
    (prompt,) = prompts.batch([(0, 3)])["prompts"]
    asked, reply = prompt.record["messages"]
    expected, _ = chat.render(prompts._tokenizer, [asked], open_reply=True)
    whole, _ = chat.render(prompts._tokenizer, [asked, reply])
    assert prompt.ids == expected == whole[: len(expected)]
    assert prompt.record["answer"] == reply["content"]


def test_streams_differ_by_seed_and_by_how_often_a_prompt_came_up(data, tokenizer_dir):
    batches = [
        opened(data, tokenizer_dir, seed).batch([(sample, 3)]) for seed, sample in ((1, 0), (2, 0), (1, 40))
    ]
    assert len({batch["prompts"][0].key for batch in batches}) == 3
    assert len({batch["prompts"][0].record["id"] for batch in batches}) == 1


def test_what_is_dropped_is_counted(data, tokenizer_dir):
    prompts = opened(data, tokenizer_dir, prompt_len=22)
    assert 0 < prompts.counts["dropped_too_long"] < prompts.counts["conversations"]
    assert len(prompts) == prompts.counts["conversations"] - prompts.counts["dropped_too_long"]
    with pytest.raises(DataError, match="no train prompt is of use"):
        opened(data, tokenizer_dir, needs=["tests"])


def test_replies_that_cannot_fit_are_refused(data, tokenizer_dir):
    net = initialise(Decoder(Decoder.Settings(**{**small.MODEL, "vocab_size": 400})), 1)
    batch = opened(data, tokenizer_dir, prompt_len=60).batch([(0, 0)])
    with pytest.raises(
        ConfigError, match="5 new tokens after data.prompt_len=60 are more than model.context=64"
    ):
        rollout.draw(net, batch, 2, 5)
    said, rows = rollout.draw(net, batch, 2, 4)
    assert len(said) == len(rows["tokens"]) == 2


def test_records_that_are_prompts_alone_serve_as_well(tmp_path, tokenizer):
    record = {"id": "1", "prompt": [{"role": "user", "content": "Say yes"}], "answer": "yes"}
    settings = {"data": collected(tmp_path / "data", [record]), "tokenizer": tokenizer}
    (found,) = Prompts(Prompts.Settings(**settings), "train", seed=1).batch([(0, 0)])["prompts"]
    assert found.record["answer"] == "yes"
    assert len(found.ids) > 2
