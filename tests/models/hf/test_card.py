"""The model card says what a checkpoint was made from, whatever became of the directories."""

import yaml

from llmkit.models.hf import card, importing
from llmkit.opened import open_model
from tests.nets import random_net

FIGURES = {
    "architecture": "LlamaForCausalLM",
    "dtype": "float32",
    "transformers": "5.0",
    "max_abs_logit_diff": 1e-6,
    "tolerance": 5e-5,
    "greedy_tokens": 0,
}
TASK = {"headline": "accuracy", "accuracy": 0.5, "ci95": [0.25, 0.75]}


def made(tmp_path, sources, evaluation=None, **recipe) -> str:
    """The card of a net whose checkpoint says that it was made from `sources`, by `recipe`."""
    importing.save(random_net(), tmp_path / "run", None, {"sources": sources})
    opened = open_model(tmp_path / "run")
    opened.recipe.update(recipe)
    card.write(tmp_path, opened, FIGURES, "A model", evaluation)
    return (tmp_path / "README.md").read_text()


def test_a_licence_is_stated_if_all_sources_share_one_that_has_an_identifier(tmp_path):
    for licences, stated in [
        (["MIT", "MIT"], "mit"),
        (["MIT", "CC0-1.0"], "other"),
        (["free: as in air"], "other"),
    ]:
        sources = {str(i): {"licence": licence} for i, licence in enumerate(licences)}
        text = made(tmp_path / stated / str(len(licences)), sources)
        assert yaml.safe_load(text.split("---\n")[1])["license"] == stated
        assert all(f"| {i} | {licence} |" in text for i, licence in enumerate(licences))


def test_runs_are_listed_oldest_first_as_far_as_they_are_there(tmp_path):
    for name, init in (("a", "gone"), ("b", str(tmp_path / "a"))):
        (tmp_path / name).mkdir()
        recipe = {
            "objective": {"name": "causal" if name == "a" else "sft"},
            "run": {"steps": 7},
            "init": init,
        }
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = made(tmp_path, {}, objective={"name": "dpo"}, init=str(tmp_path / "b"))
    assert text.index("| causal | 7 |") < text.index("| sft | 7 |") < text.index("| dpo |")
    assert "tuned to answer" in text
    assert "does not say what it was trained on" in text


def test_the_lines_of_a_card_open_the_directory_that_it_lies_in(tmp_path):
    text = made(tmp_path, {}, quick="applied")
    assert 'AutoTokenizer.from_pretrained(".")' in text
    assert "smoke run" in text


def test_an_evaluation_is_quoted_with_its_interval(tmp_path):
    text = made(tmp_path, {}, {"tasks": {"pairs": TASK, "samples": {"headline": "texts", "texts": 4}}})
    assert "| pairs | accuracy | 0.5 | 0.25 to 0.75 |" in text
    assert "| samples |" not in text
