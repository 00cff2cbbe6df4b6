import json
from pathlib import Path

import pytest

from llmkit import config
from llmkit.errors import CheckpointError, ConfigError, DataError
from llmkit.eval.compare import compare, show
from llmkit.eval.records import digest
from llmkit.eval.suite import Suite, work
from llmkit.registry import load_plugin


def suite(world, ckpt="run", **tasks) -> Suite:
    return config.resolve(Suite, {"ckpt": str(world / ckpt), "tasks": tasks, "device": "cpu"})


def text(world, **changes) -> dict:
    return {"name": "bits_per_byte", "text": str(world / "data" / "heldout.txt"), **changes}


def test_a_suite_writes_figures_and_every_sample(world, tmp_path, capsys):
    answers = {"name": "exact_match", "data": str(world / "chats"), "max_new": 4}
    report = work(suite(world, text=text(world), answers=answers), tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == json.loads(json.dumps(report))
    assert written["tasks"]["text"]["metric"] == "bits_per_byte"
    assert written["parameters"] > 10_000
    rows = [json.loads(line) for line in (tmp_path / "results" / "answers.jsonl").open()]
    assert len(rows) == written["tasks"]["answers"]["samples"]
    assert "bits_per_byte" in capsys.readouterr().out


def test_an_unknown_metric_is_answered_with_the_nearest(world):
    with pytest.raises(ConfigError, match="no metric called 'bits_per_bite'; did you mean bits_per_byte"):
        suite(world, text={"name": "bits_per_bite"})


def test_a_language_metric_refuses_a_reward_model(world, tmp_path):
    with pytest.raises(CheckpointError, match="is a reward model, a language model is needed"):
        work(suite(world, "reward", text=text(world)), tmp_path)


def test_quick_reaches_into_the_tasks(world):
    tasks = {"text": text(world), "chat": {"name": "samples", "prompts": ["a"]}}
    settings = config.resolve(Suite, {"ckpt": "x", "tasks": tasks}, {"tasks.text.max_bytes": 99}, quick=True)
    assert settings.tasks["text"].max_bytes == 99
    assert settings.tasks["chat"].max_new == 8


def test_a_misspelt_setting_of_a_task_is_answered_with_the_nearest(world):
    with pytest.raises(
        ConfigError, match=r"tasks\.text\.windw: no such setting; did you mean tasks\.text\.window"
    ):
        suite(world, text=text(world, windw=3))


def test_an_evaluation_depends_on_the_directories_it_reads(world):
    answers = {"name": "exact_match", "data": str(world / "chats"), "before": str(world / "run")}
    inputs = suite(world, answers=answers).inputs()
    assert set(inputs) == {"ckpt", "answers.data", "answers.before"}


def test_an_evaluation_depends_on_the_files_and_the_recogniser_that_it_reads(world):
    words = text(world, train_text=str(world / "data" / "train.jsonl"))
    images = {"name": "frechet", "images": {"source": "digits"}, "extractor": str(world / "run")}
    inputs = suite(world, words=words, images=images).inputs()
    data, run = str(world / "data"), str(world / "run")
    assert inputs == {"ckpt": run, "words.text": data, "words.train_text": data, "images.extractor": run}


@pytest.mark.parametrize("name", ["base", "own_text", "instructions", "reward", "preference", "verified"])
def test_the_suites_that_come_along_are_valid(name):
    asked = config.read(name, "eval")["tasks"]
    needed = {"bits_per_byte": ["text"], "preference": ["data", "before"], "samples": []}
    paths = {
        f"tasks.{label}.{key}": "x"
        for label, task in asked.items()
        for key in needed.get(task["name"], ["data"])
    }
    assert config.load(Suite, name, {"ckpt": "x", **paths}, folder="eval").tasks.keys() == asked.keys()


def test_two_evaluations_are_compared_sample_by_sample(world, tmp_path, capsys):
    for name, window in (("a", 8), ("b", 96)):
        work(suite(world, text=text(world, window=window)), tmp_path / name)
    found = compare(tmp_path / "a", tmp_path / "b")["text"]
    assert found["difference"] == pytest.approx(found["b"] - found["a"])
    assert found["samples"] >= 1
    same = compare(tmp_path / "a", tmp_path / "a")["text"]
    assert same["verdict"] == "no clear difference"
    assert same["p"] == 1.0
    show(tmp_path / "a", tmp_path / "b")
    assert "text" in capsys.readouterr().out


def test_evaluations_on_different_texts_are_not_compared(world, tmp_path):
    for name, cut in (("a", 20_000), ("b", 300)):
        work(suite(world, text=text(world, max_bytes=cut)), tmp_path / name)
    with pytest.raises(DataError, match="measured on other data"):
        compare(tmp_path / "a", tmp_path / "b")


def evaluated(folder: Path, rows: list[dict], **figures) -> Path:
    """An evaluation of one task `answers`, as `llmkit eval` leaves it."""
    (folder / "results").mkdir(parents=True)
    task = {"metric": "exact_match", "headline": "exact_match", "better": "higher", **figures}
    (folder / "report.json").write_text(json.dumps({"tasks": {"answers": task}}))
    (folder / "results" / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_binary_samples_are_compared_by_mcnemar(tmp_path):
    pair = [
        evaluated(tmp_path / name, [{"id": i, "value": float(i < right)} for i in range(60)])
        for name, right in (("a", 20), ("b", 40))
    ]
    found = compare(*pair)["answers"]
    assert (found["test"], found["verdict"]) == ("McNemar", "B is better")
    assert found["p"] == pytest.approx(2 * 0.5**20)
    assert found["ci95"][0] > 0


def test_a_sample_weighs_what_it_weighs_in_its_own_evaluation(tmp_path):
    """F1 of entities: B says twice as many as there are, half of them right, in every other sentence."""
    a = evaluated(tmp_path / "a", [{"id": i, "value": 0.5, "weight": 4} for i in range(40)])
    b = evaluated(
        tmp_path / "b",
        [{"id": i, "value": 0.4 if i % 2 else 0.8, "weight": 6 if i % 2 else 2} for i in range(40)],
    )
    found = compare(a, b)["answers"]
    assert (found["a"], found["b"]) == (pytest.approx(0.5), pytest.approx((0.4 * 6 + 0.8 * 2) / 8))
    assert found["difference"] == pytest.approx(found["b"] - found["a"])
    assert found["ci95"][0] < found["difference"] < found["ci95"][1]


def test_samples_that_one_evaluation_alone_holds_are_counted(tmp_path, capsys):
    rows = [{"id": i, "value": float(i % 2)} for i in range(9)]
    a, b = evaluated(tmp_path / "a", rows), evaluated(tmp_path / "b", rows[3:])
    assert compare(a, b)["answers"]["left_out"] == [3, 0]
    show(a, b)
    assert "left out: 3 samples that A alone holds, 0 of B alone" in capsys.readouterr().out


def test_samples_of_one_id_are_compared_one_by_one(tmp_path):
    a, b = (
        evaluated(tmp_path / name, [{"id": "sum-1", "value": v} for v in values])
        for name, values in (("a", [1.0, 0.0]), ("b", [0.0, 0.0]))
    )
    found = compare(a, b)["answers"]
    assert (found["samples"], found["a"], found["b"]) == (2, 0.5, 0.0)


@pytest.mark.parametrize("key", ["metric", "headline", "heldout", "tokenizer"])
def test_figures_of_something_else_under_the_same_label_are_not_compared(tmp_path, key):
    rows = [{"id": i, "value": 1.0} for i in range(3)]
    a, b = (evaluated(tmp_path / name, rows, **{key: f"of {name}"}) for name in "ab")
    with pytest.raises(DataError, match=f"answers: {key} is of a in .*evaluate both on the same"):
        compare(a, b)


def test_a_report_says_which_records_were_measured(world, tmp_path):
    answers = {"name": "exact_match", "data": str(world / "chats"), "max_new": 4}
    found = work(suite(world, answers=answers), tmp_path)["tasks"]["answers"]["heldout"]
    assert found == digest((world / "chats" / "heldout.jsonl").read_bytes())


def test_evaluations_without_a_common_task_are_refused(world, tmp_path):
    work(suite(world, text=text(world)), tmp_path / "a")
    work(suite(world, other=text(world)), tmp_path / "b")
    with pytest.raises(DataError, match="no task in common"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match=r"holds no report\.json"):
        compare(tmp_path / "a", tmp_path)


def test_the_metric_of_the_documentation_runs_as_a_plug_in(world, tmp_path):
    examples = Path(__file__).parents[2] / "docs" / "examples"
    load_plugin(str(examples / "distinct.py"))
    settings = config.load(Suite, str(examples / "distinct.yaml"), {"ckpt": str(world / "run")}, quick=True)
    task = work(settings, tmp_path)["tasks"]["repetition"]
    assert task["samples"] == 4
    assert 0 < task["distinct_2"] <= 1
