"""The page and the figures of a pipeline, whole and in part."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from llmkit import manifest
from llmkit.log import Metrics
from llmkit.report import lineage, page, pipeline
from llmkit.report.records import Roles, Stage

VOID = {"meta", "br", "img", "link"}


class Strict(HTMLParser):
    """Remembers what is open; a closing tag that does not fit is an error."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[key] for key in ("href", "src") if key in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(path) -> Strict:
    reader = Strict()
    reader.feed(path.read_text())
    assert reader.open == []
    return reader


def test_the_figures_stand_under_the_promised_keys(pipeline_dir, read):
    pipeline.write(*pipeline_dir)
    root, _ = pipeline_dir
    found = read(root / "report.json")
    assert found["stages"][0] == {"name": "data", "seconds": 12.5, "status": "done"}
    assert len(found["stages"]) == 15
    assert found["data"] == {"heldout": f"{root}/data/heldout.txt"}
    assert found["pretrain"]["bits_per_byte"] == 1.52
    assert list(found["pretrain"]["baseline"]) == ["xz", "bz2", "unigram", "kn2", "kn3", "kn4"]
    assert found["pretrain"]["tokens_per_second"] == 9100.5
    assert found["pretrain"]["export"] == f"{root}/export_pretrain"
    assert {key: found["sft"][key] for key in ("loss_before", "loss_after", "exact_match")} == {
        "loss_before": 4.5,
        "loss_after": 1.1,
        "exact_match": 0.62,
    }
    assert {"accuracy", "ci95", "pairs", "longer_wins", "by_source"} <= found["reward"].keys()
    assert found["preference"]["ci95"] == [0.09, 0.15]
    assert {"accuracy_before", "accuracy_after", "chosen_logprob_change", "kl"} <= found["preference"].keys()
    assert found["export"] == {
        "path": f"{root}/export",
        "max_abs_logit_diff": 1.2e-6,
        "tokenizer_mismatches": 0,
    }


def test_the_page_is_whole_and_fetches_nothing(pipeline_dir):
    reader = parsed(pipeline.write(*pipeline_dir))
    text = (pipeline_dir[0] / "report.html").read_text()
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert all(link.startswith("#") for link in reader.links)
    assert {link.removeprefix("#") for link in reader.links} == set(reader.ids)
    assert reader.ids == [
        "verdict", "pretraining", "instructions", "reward", "preference", "samples", "origin", "recompute",
    ]  # fmt: skip


def test_every_drawing_is_valid_and_told_in_words(pipeline_dir):
    text = pipeline.write(*pipeline_dir).read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(drawings) >= 8
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 20
        for element in root.iter():
            places = [element.get(key) for key in ("x", "y", "cx", "cy", "x1", "y2") if element.get(key)]
            assert all(-5 <= float(place) <= 2000 for place in places)


def test_what_a_model_says_is_text_and_nothing_else(pipeline_dir):
    text = pipeline.write(*pipeline_dir).read_text()
    assert text.count("I am &lt;script&gt;alert(1)&lt;/script&gt; &amp; friends") == 3
    assert "<h1>Speeches &amp; chats</h1>" in text


def test_the_verdict_names_what_is_beaten_and_what_is_not(pipeline_dir):
    text = pipeline.write(*pipeline_dir).read_text()
    assert "less than xz -9e, bz2 -9 and a unigram model need" in text
    assert "but more than a Kneser-Ney bigram, a Kneser-Ney trigram and a Kneser-Ney 4-gram" in text
    assert "It learned tasks; on chats it does no better than tossing a coin" in text
    assert "clearly above the rule that the longer one wins" in text
    assert "4.2 million parameters" in text
    assert "Preference tuning raised the share" in text


@pytest.mark.parametrize(
    ("leave_out", "parts"),
    [
        (
            (
                "export_pretrain",
                "instructions",
                "sft",
                "eval_sft",
                "preferences",
                "reward",
                "eval_reward",
                "dpo",
                "eval_dpo",
            ),
            {"stages", "data", "pretrain", "export"},
        ),
        (("eval_pretrain", "eval_sft", "eval_reward", "eval_dpo"), {"stages", "data", "pretrain", "export"}),
        (
            ("data", "pretrain", "eval_pretrain", "export_pretrain"),
            {"stages", "data", "sft", "reward", "preference", "export"},
        ),
    ],
)
def test_a_pipeline_without_some_stages_has_a_report_without_their_figures(
    quickstart, read, leave_out, parts
):
    root, rows = quickstart(leave_out)
    reader = parsed(pipeline.write(root, rows))
    assert read(root / "report.json").keys() == parts
    assert "origin" in reader.ids


def test_an_export_of_the_pretrained_model_alone_is_its_export(quickstart, read):
    tuning = ("instructions", "sft", "eval_sft", "preferences", "reward", "eval_reward", "dpo", "eval_dpo")
    root, _ = quickstart(("export_pretrain", *tuning))
    manifest.write(
        root / "export",
        verb="export",
        config={"ckpt": f"{root}/pretrain"},
        result={"max_abs_logit_diff": 0.0},
    )
    page.write(root)
    assert read(root / "report.json")["pretrain"]["export"] == f"{root}/export"


def test_roles_are_found_by_what_stages_do_when_their_names_say_nothing(pipeline_dir):
    names = {"pretrain": "first", "eval_pretrain": "look", "sft": "second", "eval_sft": "look2"}
    rows = [{**row, "name": names.get(row["name"], row["name"])} for row in pipeline_dir[1]]
    roles = Roles([Stage.of(row) for row in rows])
    assert roles.training("pretrain").name == "first"
    assert roles.evaluation("pretrain").name == "look"
    assert roles.evaluation("sft").name == "look2"
    assert roles.export("pretrain").name == "export_pretrain"


def test_the_lineage_follows_the_settings_and_leaves_out_detours(pipeline_dir):
    stages = {stage.name: stage for stage in map(Stage.of, pipeline_dir[1])}
    assert stages["shards"].reads(stages["data"])
    assert stages["sft"].reads(stages["pretrain"])
    assert not stages["sft"].reads(stages["export_pretrain"])
    told = lineage.graph(list(stages.values()))
    assert "shards from tokenizer;" in told  # and not from data as well, which the tokenizer comes from
    assert "sft from pretrain and instructions" in told


def test_a_run_that_has_not_finished_has_a_page(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    metrics = Metrics(run, 0)
    for step in (1, 2, 3):
        metrics.write(step, loss=3.0 / step, entropy=0.5)
    metrics.close()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    reader = parsed(page.write(run))
    text = (run / "report.html").read_text()
    assert "run, step 3, unfinished" in text
    assert "entropy" in text
    assert reader.ids == ["curves", "figures"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    from llmkit.errors import DataError

    with pytest.raises(DataError, match=r"holds neither metrics\.jsonl nor pipeline\.json"):
        page.write(tmp_path)
