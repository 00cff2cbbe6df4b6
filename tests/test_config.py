"""Recipes are typed and strict; every mistake is one line that names the key, the value and the cure."""

import pytest

from llmkit import config
from llmkit.config import Field, Section
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import ConfigError

TREE = {
    "run": {"steps": 5},
    "model": {"name": "decoder", "width": 64},
    "objective": {"name": "causal"},
    "data": {"name": "tokens", "shards": "x"},
}


def explain(tree, *overrides):
    with pytest.raises(ConfigError) as caught:
        config.resolve(TrainRecipe, tree, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_key_is_named_with_the_nearest_one():
    assert explain(TREE, "optim.lrr=1") == "optim.lrr: no such setting; did you mean optim.lr?"
    assert "did you mean objective.name?" in explain(TREE, "objective.nmae=1")
    assert "did you mean model.width?" in explain(TREE, "model.widht=3")


def test_a_wrong_type_names_key_value_and_rule():
    assert explain(TREE, "run.steps=soon").startswith('run.steps: "soon" should be a valid integer')
    assert explain(TREE, "optim.lr=-1").startswith("optim.lr: -1")
    assert explain(TREE, "optim.lr=.nan").startswith("optim.lr: ")


def test_an_unknown_component_is_answered_with_the_nearest_name():
    assert "did you mean causal?" in explain({**TREE, "objective": {"name": "casual"}})


def test_overrides_are_typed_and_win_over_quick_values():
    recipe = config.resolve(TrainRecipe, TREE, ["optim.lr=3e-4", "run.steps=7"], quick=True)
    assert recipe.optim.lr == 3e-4
    assert recipe.run.steps == 7
    assert (
        recipe.model.width
        == TrainRecipe.model_validate(
            {**TREE, "model": {"name": "decoder"} | dict(recipe.model.quick_values), "data": recipe.data}
        ).model.width
    )
    assert recipe.parallel.compile == "off"


def test_a_resolved_recipe_stays_as_it_is_when_a_rank_resolves_it_again():
    once = config.resolve(TrainRecipe, TREE, ["run.steps=7"], quick=True)
    again = config.resolve(TrainRecipe, config.parse_yaml(config.dump(once), "asked"), quick=True)
    assert again == once
    assert again.run.steps == 7


def test_quick_reaches_sections_that_the_recipe_leaves_out():
    assert config.resolve(TrainRecipe, TREE, quick=True).batch.rows == 4
    assert config.resolve(TrainRecipe, TREE).batch.rows == 16


def test_a_resolved_recipe_reads_back_as_itself():
    recipe = config.resolve(TrainRecipe, TREE, ["optim.nets={d: {lr: 1e-4}}"])
    again = config.resolve(TrainRecipe, config.parse_yaml(config.dump(recipe), "dump"))
    assert again == recipe


def test_budgets_are_steps_or_tokens_never_both():
    assert "give either run.steps or run.tokens" in explain(TREE, "run.tokens=100")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\na: 2", "stands there twice"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("a: [1", "not valid YAML"),
        ("x" * (config.MAX_BYTES + 1), "too many"),
    ],
)
def test_yaml_that_surprises_or_attacks_is_refused(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        config.parse_yaml(text, "recipe.yaml")


def test_off_is_a_word_and_false_is_not():
    assert config.parse_yaml("a: off\nb: yes\nc: false\nd: True", "x") == {
        "a": "off", "b": "yes", "c": False, "d": True,
    }  # fmt: skip


def test_numbers_in_yaml_are_numbers():
    assert config.parse_yaml("a: 1e-4\nb: 2E3\nc: .5", "x") == {"a": 1e-4, "b": 2000.0, "c": 0.5}


def test_a_missing_recipe_names_the_nearest(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("a: 1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="did you mean mine"):
        config.read("mino")
    assert config.read("mine") == {"a": 1}


def test_differences_lists_dotted_keys():
    assert config.differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == {"a.b": (1, 3)}


def test_the_schema_of_a_recipe_names_every_objective():
    schema = str(TrainRecipe.model_json_schema())
    assert all(name in schema for name in ("causal", "dpo", "reward", "sft", "decoder"))


def test_sections_are_frozen():
    class Small(Section):
        a: int = Field(1, description="x")

    with pytest.raises(ValueError, match="frozen"):
        Small().a = 2
