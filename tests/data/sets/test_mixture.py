"""Mixtures: token shares of real rows, one order for any ranks and restarts, and refusals in one line."""

import pytest
import torch
from pydantic import ValidationError

from llmkit import config
from llmkit.data import ledger
from llmkit.data.loader import Loader
from llmkit.data.sets.mixture import Mixture
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import ConfigError
from tests.data.conftest import paragraphs, sharded
from tests.data.sets.conftest import collected


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory, special_dir):
    """Short documents in capitals, of which rows are less full."""
    texts = [text.upper()[:60] for text in paragraphs()]
    return sharded(tmp_path_factory.mktemp("other"), special_dir, texts, texts[:4])


@pytest.fixture(scope="module")
def parts(special_shards, other_shards):
    documents = {"name": "documents", "seq_len": 32}
    return {
        "a": {**documents, "shards": special_shards},
        "b": {**documents, "shards": other_shards, "pack": False},
    }


def opened(parts, split="train", rows=None, **more):
    settings = Mixture.Settings(parts=parts, **{"weights": {"a": 0.7, "b": 0.3}, **more})
    mixture = Mixture(settings, split, 3)
    if rows:
        mixture.plan(rows)
    return mixture


def test_the_tokens_that_a_run_reads_are_in_the_proportion_of_the_weights(parts):
    mixture = opened(parts)
    order, seen = mixture.order(1), {"a": 0, "b": 0}
    epoch = 8 * len(mixture.parts["a"])
    for sample in range(epoch):
        row = order.row(sample)
        label = next(label for label, group in mixture.groups.items() if row in group)
        seen[label] += int((mixture.batch([(sample, row)])["labels"] >= 0).sum())
    assert seen["a"] / sum(seen.values()) == pytest.approx(0.7, abs=0.001)


def test_the_tokens_of_chats_are_in_the_proportion_of_the_weights_however_full_their_rows(
    tmp_path, tokenizer_dir, conversations
):
    """One part is packed, rows of the other are mostly padding."""
    chats = {"name": "conversations", "data": collected(tmp_path / "chats", conversations)}
    chats |= {"tokenizer": str(tokenizer_dir), "seq_len": 256}
    mixture = opened({"a": chats, "b": {**chats, "pack": False}}, weights={"a": 1.0, "b": 1.0})
    order, seen = mixture.order(1), {"a": 0, "b": 0}
    for sample in range(4 * len(mixture.parts["b"])):
        row = order.row(sample)
        label = next(label for label, group in mixture.groups.items() if row in group)
        seen[label] += int((mixture.batch([(sample, row)])["segments"] > 0).sum())
    assert seen["a"] / sum(seen.values()) == pytest.approx(0.5, abs=0.05)


def test_rows_come_back_in_the_order_in_which_they_were_asked_for(parts):
    mixture = opened(parts)
    border = len(mixture.parts["a"])
    asked = [(5, border + 1), (6, 2), (7, border), (8, 0)]
    together = mixture.batch(asked)
    for i, pair in enumerate(asked):
        alone = mixture.batch([pair])
        assert all(torch.equal(together[key][i], alone[key][0]) for key in together)
    assert mixture.batch([])["segments"].sum() == 0


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_ranks_reads_the_same_rows_at_every_step(parts, world):
    more = {"stages": [{"after": 0.5, "weights": {"b": 1.0}}], "rows": 60}
    whole = Loader(opened(parts, **more), 6, 6, 0, 1, seed=3)
    loaders = [Loader(opened(parts, **more), 6, 2, rank, world, seed=3) for rank in range(world)]
    for step in range(10):
        rows = [
            part["tokens"]
            for i in range(3 // world + 1)
            for loader in loaders
            for part in loader.group(step)[i : i + 1]
        ]
        expected = whole.group(step)[0]["tokens"]
        found = torch.cat(rows)
        assert sorted(map(tuple, expected.tolist())) == sorted(
            t for t in map(tuple, found.tolist()) if sum(t) != 3 * 32
        )


def books(parts, folder, starts, **more):
    """A run of 40 steps of 6 rows that starts anew at `starts`: (step, ranks), each time from that step."""
    mixture = opened(parts, **more)
    for (begun, world), (until, _) in zip(starts, [*starts[1:], (40, 0)], strict=True):
        ledger.forget(folder, begun)
        for rank in range(world):
            loader = Loader(mixture, 6, 2, rank, world, seed=3)
            loader.ledger = ledger.Ledger(folder, begun, rank)
            for step in range(begun, min(until + 2, 40)):  # two steps more, which the next start undoes
                loader.group(step)
            loader.close()
            loader.ledger.close()
    return mixture, ledger.read(folder)


def test_two_restarts_in_a_row_across_an_epoch_read_every_row_once(parts, tmp_path):
    mixture, straight = books(parts, tmp_path / "straight", [(0, 1)])
    _, broken = books(parts, tmp_path / "broken", [(0, 2), (17, 1), (18, 3), (31, 2)])
    assert {step: sorted(taken) for step, taken in straight.items()} == {
        step: sorted(taken) for step, taken in broken.items()
    }
    assert ledger.faults(broken, mixture.groups.values()) == []
    rows = [row for taken in broken.values() for _, row in taken]
    assert any(rows.count(row) > 1 for row in mixture.groups["b"])  # an epoch border was crossed


def test_the_ledger_notices_a_sample_left_out_one_taken_twice_and_a_row_repeated_in_an_epoch(parts, tmp_path):
    mixture, steps = books(parts, tmp_path, [(0, 1)])
    groups = list(mixture.groups.values())
    for fault, line in (
        (lambda taken: taken.pop(), "were never taken"),
        (lambda taken: taken.append(taken[0]), "was taken before"),
        (
            lambda taken: taken.__setitem__(0, (taken[0][0], first_row(steps, groups[0]))),
            "epoch 0 repeats some",
        ),
    ):
        bad = {step: list(taken) for step, taken in steps.items()}
        fault(bad[3])
        assert any(line in found for found in ledger.faults(bad, groups)), line
    assert ledger.faults(steps, groups) == []


def first_row(steps, group):
    return next(row for _, row in sorted(steps[0]) if row in group)


def test_stages_are_shares_of_the_planned_run_and_the_plan_is_kept(parts):
    stages = [{"after": 0.75, "weights": {"b": 1.0}}]
    mixture = opened(parts, stages=stages, rows=80)
    assert mixture.settings.rows == 80
    rows = [mixture.order(1).row(sample) for sample in range(80)]
    assert all(row in mixture.groups["b"] for row in rows[60:])
    assert sum(row in mixture.groups["a"] for row in rows[:60]) > 20


def test_a_run_longer_than_the_epochs_is_refused_with_the_rows_there_are(parts):
    mixture = opened(parts, max_epochs={"a": 1, "b": 2})
    most = len(mixture.parts["a"]) + 2 * len(mixture.parts["b"])
    mixture.plan(most)
    with pytest.raises(
        ConfigError, match=f"data.max_epochs: the parts are used up after {most} of .* {most + 1} rows"
    ):
        mixture.plan(most + 1)


def test_held_out_rows_are_grouped_by_part_and_need_no_plan(parts):
    mixture = opened(parts, "heldout", stages=[{"after": 0.5, "weights": {"a": 1}}])
    groups = Loader(mixture, 4, 2, 0, 1, seed=1).groups(3)
    assert list(groups) == ["a", "b"]
    assert [
        sum(int((batch["segments"].amax(1) > 0).sum()) for batch in batches) for batches in groups.values()
    ] == [3, 3]


def test_parts_whose_rows_differ_are_refused(parts, special_shards):
    longer = {**parts, "b": {"name": "documents", "seq_len": 48, "shards": special_shards}}
    with pytest.raises(
        ConfigError, match="data.parts.b: its rows differ from those of a in labels, segments, tokens"
    ):
        opened(longer)
    noisy = {**parts, "b": {**parts["b"], "noise": {"name": "masked"}}}
    with pytest.raises(ConfigError, match="in bytes; give all parts"):
        opened(noisy)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"weights": {"a": 0, "b": 0}}, "they sum to 0"),
        ({"weights": {"a": 1, "c": 1}}, "there is no part 'c'"),
        ({"weights": {"a": 1, "b": -1}}, "is negative"),
        ({"stages": [{"after": 0.5, "weights": {"b": 0}}]}, "stages.0.weights: they sum to 0"),
        ({"stages": [{"after": a, "weights": {"b": 1}} for a in (0.5, 0.3)]}, "must grow"),
    ],
)
def test_settings_that_contradict_themselves_are_refused_before_any_data_is_read(more, line):
    nowhere = {label: {"name": "tokens", "shards": "nowhere"} for label in ("a", "b")}
    tree = {"name": "mixture", "parts": nowhere, "weights": {"a": 1}, **more}
    with pytest.raises(ValidationError, match=line):
        Mixture.Settings.model_validate(tree)
    run = {"run": {"steps": 1}, "model": {"name": "decoder"}, "objective": {"name": "causal"}, "data": tree}
    with pytest.raises(ConfigError, match=r"^data"):
        config.resolve(TrainRecipe, run)
