import pytest
import torch

from llmkit.data.sets.pairs import Pairs
from llmkit.engine.recipe import TrainRecipe
from llmkit.engine.run import resolved
from llmkit.errors import ConfigError, DataError
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.heads import with_head
from llmkit.objectives.phase import add
from llmkit.objectives.tune.cpo import Cpo
from llmkit.objectives.tune.dpo import Dpo
from llmkit.objectives.tune.orpo import Orpo
from llmkit.objectives.tune.reward import Reward
from llmkit.objectives.tune.simpo import SimPo
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.data.sets.conftest import collected


def opened(folder, records, tokenizer, **settings):
    data = collected(folder / "data", records)
    return Pairs(Pairs.Settings(data=data, tokenizer=tokenizer, **settings), "train", seed=1)


def pair(prompt, chosen, rejected, **more):
    return {"prompt": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected, **more}


def test_only_the_replies_are_labelled_chosen_in_odd_segments(tmp_path, tokenizer):
    dialogue = pair("Which?", "war", "peace")
    dialogue["prompt"] = [*dialogue["prompt"], {"role": "assistant", "content": "What?"}, *dialogue["prompt"]]
    dataset = opened(tmp_path, [dialogue], tokenizer)
    batch, decode = dataset.batch([(0, 0)]), Tokenizer.load(tokenizer).decode
    labels = [batch["labels"][(batch["segments"] == s) & (batch["labels"] >= 0)] for s in (1, 2)]
    assert [decode(ids) for ids in labels] == ["war", "peace"]


def test_pairs_with_a_margin_of_their_own_are_counted_and_one_must_be_there_to_weigh_it(tmp_path, tokenizer):
    rows = [pair("Which?", "war", "peace"), pair("And?", "law", "war", margin=2.0)]
    settings = {"name": "pairs", "data": str(tmp_path / "data"), "tokenizer": tokenizer}
    tree = {"run": {"steps": 1}, "model": {"name": "decoder"}, "objective": {"name": "reward", "margin": 1.0}}
    recipe = TrainRecipe.model_validate({**tree, "data": settings})
    both = opened(tmp_path, rows, tokenizer)
    assert (both.counts["pairs"], both.counts["with_margin"]) == (2, 1)
    assert resolved(recipe, both).objective.margin == 1.0
    with pytest.raises(ConfigError, match=r"objective\.margin: no pair of the data has a margin of its own"):
        resolved(recipe, opened(tmp_path, rows[:1], tokenizer))


def test_ends_are_the_last_tokens_of_each_text(tmp_path, tokenizer, pairs):
    dataset = opened(tmp_path, pairs, tokenizer, seq_len=96)
    batch = dataset.batch([(row, row) for row in range(len(dataset))])
    found = batch["segments"].long().gather(1, batch["ends"].flatten(1))
    expected = torch.arange(1, found.shape[1] + 1).expand_as(found)
    there = batch["valid"].repeat_interleave(2, 1)
    assert torch.equal(found[there], expected[there])
    follows = (
        torch.nn.functional.pad(batch["segments"], (0, 1)).long().gather(1, batch["ends"].flatten(1) + 1)
    )
    assert torch.all((follows != found)[there])
    assert batch["valid"].sum() == len(pairs) == dataset.counts["pairs"]


def test_a_margin_travels_with_its_pair(tmp_path, tokenizer):
    records = [pair("Which?", "war", "peace", margin=3.5), pair("Which one?", "war", "peace")]
    batch = opened(tmp_path, records, tokenizer).batch([(0, 0)])
    assert sorted(batch["margin"][batch["valid"]].tolist()) == [0.0, 3.5]


def test_pairs_that_teach_nothing_are_dropped_and_counted(tmp_path, tokenizer):
    records = [
        pair("Which?", "war", "peace"),
        pair("Which?", "war", "war"),
        pair("word " * 40, "war", "peace"),
    ]
    counts = opened(tmp_path, records, tokenizer, seq_len=64).counts
    assert (counts["dropped_identical"], counts["dropped_too_long"]) == (1, 1)


def test_a_split_without_pairs_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match="no train pair fits into 16 tokens"):
        opened(tmp_path, [pair("word " * 40, "war", "peace")], tokenizer, seq_len=16)


def test_a_template_that_changes_an_answered_prompt_is_refused(tmp_path, tokenizer):
    from shutil import copytree

    folder = copytree(tokenizer, tmp_path / "tokenizer")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if loop.last and not add_generation_prompt %}"
        "{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
        "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(DataError, match="does not begin like the open one"):
        opened(tmp_path, [pair("Which?", "war", "peace")], str(folder))


@pytest.mark.parametrize(
    ("objective", "head"),
    [
        (Dpo(Dpo.Settings(sft_weight=0.5)), "lm"),
        (Dpo(Dpo.Settings(loss="ipo", divergence="js")), "lm"),
        (SimPo(SimPo.Settings()), "lm"),
        (Cpo(Cpo.Settings()), "lm"),
        (Orpo(Orpo.Settings()), "lm"),
        (Orpo(Orpo.Settings(convention="llamafactory")), "lm"),
        (Reward(Reward.Settings()), "score"),
    ],
)
def test_packed_pairs_give_the_loss_and_gradient_of_unpacked_ones(
    tmp_path, tokenizer, pairs, objective, head
):
    def run(dataset, change=lambda batch: batch):
        shape = Settings(width=16, layers=2, heads=2, vocab_size=dataset.vocab_size, context=128)
        nets = {
            "model": initialise(with_head(Decoder(shape), head), seed=1),
            "reference": initialise(Decoder(shape), seed=2),
        }
        if head == "score":
            torch.nn.init.constant_(nets["model"].score.weight, 0.5)
        (phase,) = objective.phases
        group = [change(dataset.batch([(row, row)])) for row in range(len(dataset))]
        group = objective.prepare(group, nets, None, 0)
        total = add(objective.count(phase, batch) for batch in group)
        loss = sum(objective.loss(phase, nets, batch, total)[0] for batch in group)
        loss.backward()
        return loss.item(), next(nets["model"].parameters()).grad

    packed = opened(tmp_path, pairs, tokenizer, seq_len=128)
    single = opened(tmp_path, pairs, tokenizer, seq_len=128, pack=False)
    assert len(packed) < len(single) / 1.5
    loss, gradient = run(packed)
    expected, expected_gradient = run(single)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    shifted, _ = run(packed, lambda batch: {**batch, "tokens": batch["tokens"].roll(1, 1)})
    assert shifted != pytest.approx(expected, rel=1e-6)
