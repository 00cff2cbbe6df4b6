"""Verifiers that misbehave: each failure is contained, counted, and costs its own reply alone."""

import os
import time
from pathlib import Path

import psutil
import pytest

from llmkit import config, registry
from llmkit.errors import ConfigError
from llmkit.verifiers.contained import Contained
from llmkit.verifiers.verifier import Verifier, VerifierSettings


@registry.register("verifier", "unruly")
class Unruly(Verifier):
    """Does what the reply says."""

    class Settings(VerifierSettings):
        name: str = "unruly"
        timeout_s: float = 1.0

    needs = ()

    def score(self, reply, record):
        print("a verifier may talk")
        if reply == "hang":
            time.sleep(60)
        if reply == "crash":
            os.kill(os.getpid(), 9)
        if reply == "raise":
            raise KeyError("oops")
        if reply == "fork" and os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            Path(record["pid"]).write_text(str(os.getpid()))
            time.sleep(60)
        if reply == "fork":
            while not os.path.exists(record["pid"]) or not Path(record["pid"]).read_text():
                time.sleep(0.01)
        return 1.0


@pytest.fixture
def unruly():
    contained = Contained(Unruly.Settings(name="unruly"))
    yield contained
    contained.close()


@pytest.mark.parametrize(
    ("deed", "kind", "score"), [("hang", "hung", 0), ("crash", "crashed", 0), ("raise", "raised", 0)]
)
def test_a_failure_costs_its_reply_and_no_other(unruly, deed, kind, score):
    assert unruly.scores([("good", {}), (deed, {}), ("good", {})]) == [1.0, score, 1.0]
    assert unruly.failures == {"hung": 0, "crashed": 0, "raised": 0, "left_processes": 0, kind: 1}


def test_what_a_verifier_leaves_running_is_killed(unruly, tmp_path):
    file = tmp_path / "pid"
    assert unruly.scores([("fork", {"pid": str(file)}), ("good", {})]) == [1.0, 1.0]
    assert unruly.failures["left_processes"] == 1
    pid = int(file.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_several_workers_answer_in_order(tmp_path):
    contained = Contained(Unruly.Settings(name="unruly", workers=3))
    assert contained.scores([("good", {}), ("raise", {})] * 4) == [1.0, 0.0] * 4
    contained.close()


def test_a_verifier_that_cannot_start_is_a_configuration_error(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    registry.load_plugin(str(tmp_path / "broken.py"))
    contained = Contained(registry.find("verifier", "broken").Settings(name="broken"))
    with pytest.raises(ConfigError, match="verifier broken does not start .OSError: no judge here"):
        contained.scores([("good", {})])


BROKEN = """
from llmkit.registry import register
from llmkit.verifiers.verifier import Verifier, VerifierSettings

@register("verifier", "broken")
class Broken(Verifier):
    class Settings(VerifierSettings):
        name: str = "broken"

    def __init__(self, settings):
        raise OSError("no judge here")
"""


def score(settings: dict, reply: str, record: dict) -> float:
    cls = registry.find("verifier", settings["name"])
    return cls(config.resolve(cls.Settings, settings)).score(reply, record)


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("so it is 1,000.", "1000", 1),
        (r"thus \boxed{1/2} of 7", "0.5", 1),
        (r"\frac{1}{3}", "2/6", 1),
        ("50 %", "0.5", 1),
        ("10 apples #### 12", "12", 1),
        ("-3", "3", 0),
        ("1e3", "1000", 1),
        ("12 or 13", "12", 0),
        ("no number", "12", 0),
        ("1/0", "1", 0),
        ("9" * 5000, "1", 0),
    ],
)
def test_final_numbers_are_compared_exactly(reply, answer, right):
    assert score({"name": "math"}, reply, {"answer": answer}) == right


def test_a_tolerance_is_relative():
    assert score({"name": "math", "tolerance": 0.01}, "101", {"answer": "100"}) == 1
    assert score({"name": "math", "tolerance": 0.01}, "102", {"answer": "100"}) == 0


def test_form_is_that_of_the_whole_reply():
    form = {"name": "format", "pattern": r"<think>.+</think>\s*\d+"}
    assert score(form, "<think>well\nhm</think> 12", {}) == 1
    assert score(form, "so <think>well</think> 12", {}) == 0
    with pytest.raises(ConfigError, match="is no regular expression"):
        config.resolve(registry.find("verifier", "format").Settings, {"name": "format", "pattern": "("})


def test_an_exact_answer_may_have_space_around_it():
    assert score({"name": "exact"}, " a\nb\n", {"answer": "a\nb"}) == 1
    assert score({"name": "exact"}, "a b", {"answer": "a\nb"}) == 0


def test_the_example_in_the_docs_scores_replies():
    registry.load_plugin(str(Path(__file__).parents[2] / "docs" / "examples" / "shorter.py"))
    contained = Contained(registry.find("verifier", "shorter").Settings())
    items = [("5", {"answer": "5"}), ("it is " + "5" * 400, {"answer": "5"}), ("4", {"answer": "5"})]
    assert contained.scores(items) == [1 - 0.5 / 200, 0.5, 0.0]
    contained.close()
