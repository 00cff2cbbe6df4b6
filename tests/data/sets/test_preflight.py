"""Each thing that can be wrong with fine-tuning data: found, counted, named, and dealt with as told."""

from shutil import copytree

import pytest

from llmkit import registry
from llmkit.data.preflight import Checks
from llmkit.errors import DataError
from tests.data.sets.conftest import collected


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def chat(*contents, name="good"):
    speakers = (user, assistant)
    return {"id": name, "messages": [speakers[i % 2](text) for i, text in enumerate(contents)]}


def pair(prompt, chosen, rejected, name="good"):
    return {"id": name, "prompt": [user(prompt)], "chosen": chosen, "rejected": rejected}


MARKED = "{% generation %}{{ m.content }}<|end|>{% endgeneration %}"


def template(reply=MARKED, bos="{{ bos_token }}", opening="<|assistant|>", header="<|assistant|>"):
    return (
        bos + "{% for m in messages %}{% if m.role == 'assistant' %}" + header + reply + "{% else %}<|user|>"
        "{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + opening
        + "{% endif %}"
    )


TEMPLATES = {
    "template": template(opening="<|assistant|>Well: "),
    "double_bos": template(bos="{{ bos_token }}<s>"),
    "without_end": template(reply="{% generation %}{{ m.content }}{% endgeneration %}<|end|>"),
    "without_reply": template(reply="{% generation %}{% endgeneration %}{{ m.content }}<|end|>"),
}
"""check -> a chat template that is wrong in just that."""

GOOD_CHAT, GOOD_PAIR = chat("Which word?", "war"), pair("Which?", "war", "peace")
LONG = "word " * 80
BAD = {
    ("empty", "conversations"): {"id": "bad", "messages": []},
    ("empty", "pairs"): {"id": "bad", "prompt": [], "chosen": "war", "rejected": "peace"},
    ("unknown_role", "conversations"): {"id": "bad", "messages": [{"role": "tool", "content": "x"}]},
    ("unknown_role", "pairs"): {**GOOD_PAIR, "id": "bad", "prompt": [{"role": "wizard", "content": "x"}]},
    ("without_reply", "conversations"): chat("Anybody?", name="bad"),
    ("too_long", "conversations"): chat(LONG, "yes", name="bad"),
    ("too_long", "pairs"): pair(LONG, "war", "peace", name="bad"),
    ("cut", "conversations"): chat("Which?", "war", LONG, "yes", name="bad"),
    ("identical", "pairs"): pair("Which?", "war", "war", name="bad"),
    ("prompts_differ", "pairs"): {
        "id": "bad",
        "chosen": [user("Which?"), assistant("war")],
        "rejected": [user("What?"), assistant("peace")],
    },
    ("overlap", "conversations"): chat("Held  OUT?", "war", name="bad"),
    ("overlap", "pairs"): pair("held out?", "war", "peace", name="bad"),
}
HELDOUT = {"conversations": [chat("Held out?", "no")], "pairs": [pair("Held out?", "war", "peace")]}
GOOD = {"conversations": GOOD_CHAT, "pairs": GOOD_PAIR}


def opened(tmp_path, tokenizer, kind, records, heldout=None, **checks):
    cls = registry.find("dataset", kind)
    data = collected(tmp_path / "data", records, heldout or HELDOUT[kind])
    settings = {"data": data, "tokenizer": str(tokenizer), "seq_len": 64, "checks": checks}
    return cls(cls.Settings.model_validate(settings), "train", seed=1)


def message(check: str) -> str:
    return Checks.model_fields[check].description.split("(")[0]


@pytest.mark.parametrize(("check", "kind"), BAD)
def test_a_bad_record_is_left_out_and_counted_where_the_policy_is_to_drop(tmp_path, tokenizer, check, kind):
    dataset = opened(tmp_path, tokenizer, kind, [GOOD[kind], BAD[check, kind]], **{check: "drop"})
    assert dataset.preflight.counts == {check: 1}
    assert dataset.counts[f"dropped_{check}"] == 1
    assert dataset.counts["rows"] == 1
    assert f"  drop: 1 {Checks.model_fields[check].description} (first: bad)" in dataset.preflight.lines()


@pytest.mark.parametrize(("check", "kind"), BAD)
def test_a_bad_record_ends_the_run_with_its_own_message_where_the_policy_is_to_fail(
    tmp_path, tokenizer, check, kind, capsys
):
    with pytest.raises(DataError) as error:
        opened(tmp_path, tokenizer, kind, [GOOD[kind], BAD[check, kind]], **{check: "fail"})
    line = str(error.value)
    assert line.startswith(f"{tmp_path / 'data' / 'train.jsonl'}: 1 {message(check)}")
    assert line.endswith(f"(first: bad); mend them, or set data.checks.{check}=drop")
    assert "\n" not in line
    assert f"fail: 1 {message(check)}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["conversations", "pairs"])
@pytest.mark.parametrize("check", TEMPLATES)
def test_a_template_that_would_spoil_a_run_is_found(tmp_path, tokenizer, check, kind):
    folder = copytree(tokenizer, tmp_path / "tokenizer")
    (folder / "chat_template.jinja").write_text(TEMPLATES[check])
    with pytest.raises(DataError, match=message(check).partition(":")[0]):
        opened(tmp_path, folder, kind, [GOOD[kind]], **{check: "fail"})
    (folder / "chat_template.jinja").write_text(template())
    assert not opened(tmp_path, folder, kind, [GOOD[kind]]).preflight.counts


def test_by_default_what_ruins_a_run_in_silence_fails_and_the_rest_is_dropped_or_kept():
    policies = Checks().model_dump()
    fail = {"unknown_role", "prompts_differ", "overlap", "template", "double_bos", "without_end"}
    assert {check for check, policy in policies.items() if policy == "fail"} == fail
    assert {check for check, policy in policies.items() if policy == "keep"} == {"cut"}


def test_all_kinds_of_failure_are_named_in_one_line(tmp_path, tokenizer):
    records = [BAD["unknown_role", "pairs"], BAD["prompts_differ", "pairs"], BAD["overlap", "pairs"]]
    with pytest.raises(DataError) as error:
        opened(tmp_path, tokenizer, "pairs", [GOOD_PAIR, *records, records[0]])
    line = str(error.value)
    assert f"2 {message('unknown_role')}" in line
    assert all(f"1 {message(check)}" in line for check in ("prompts_differ", "overlap"))


def test_when_every_label_is_lost_to_truncation_the_line_says_so(tmp_path, tokenizer):
    with pytest.raises(
        DataError, match=r"no train reply ends within 64 tokens \(2 too_long\); raise seq_len"
    ):
        opened(tmp_path, tokenizer, "conversations", [chat(LONG, "yes"), chat(LONG + "!", "no")])


def test_what_may_stay_stays_where_the_policy_is_to_keep(tmp_path, tokenizer):
    records = [GOOD_PAIR, BAD["identical", "pairs"], BAD["overlap", "pairs"]]
    dataset = opened(tmp_path, tokenizer, "pairs", records, identical="keep", overlap="keep")
    assert dataset.preflight.counts == {"identical": 1}  # the held-out prompts are not even read
    assert dataset.batch([(0, 0)])["valid"].sum() == 3


def test_single_replies_are_checked_like_pairs(tmp_path, tokenizer):
    bad = {"id": "bad", "prompt": [{"role": "wizard", "content": "x"}], "reply": "war", "desirable": True}
    good = [{**bad, "id": str(i), "prompt": [user(f"{i}?")]} for i in range(3)]
    heldout = [{**good[0], "prompt": [user("Held out?")]}]
    dataset = opened(tmp_path, tokenizer, "unpaired", [*good, bad], heldout, unknown_role="drop")
    assert dataset.preflight.counts == {"unknown_role": 1}
    assert dataset.counts["examples"] == 4
    with pytest.raises(DataError, match=message("overlap")):
        opened(tmp_path, tokenizer, "unpaired", good, good[:1])


def test_other_peoples_formats_are_read_where_they_lie(tmp_path, tokenizer):
    rows = [{"instruction": "Which?", "output": "war"}, {"prompt": "What?", "completion": "peace"}]
    assert opened(tmp_path, tokenizer, "conversations", rows).counts["conversations"] == 2
    ratings = [{"id": "r", "prompt": "Which?", "replies": ["a", "b", "c"], "ratings": [1, 2, 3]}]
    assert opened(tmp_path, tokenizer, "pairs", ratings).counts["pairs"] == 2
