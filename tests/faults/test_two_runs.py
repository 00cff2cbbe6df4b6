"""Two runs into one directory: the second is told who has it, and takes over when that one is dead."""

import pytest

from tests import ranks
from tests.checkpoint import small


def second(out: str) -> list[str]:
    """Start a run in a directory that a run of this process holds."""
    from llmkit.checkpoint.runstate import RunDir
    from llmkit.errors import ConfigError

    recipe = small.recipe(out).model_dump(mode="json")
    held = RunDir.open(out, recipe)
    try:
        small.train(out)
    except ConfigError as error:
        return [str(error)]
    finally:
        held.close()
    return []


@pytest.mark.slow
def test_a_second_run_is_refused_on_all_ranks_and_names_the_first(tmp_path):
    (said,) = ranks.run(second, 1, str(tmp_path / "run"))[0]
    assert "is in use by another run (pid " in said


@pytest.mark.slow
def test_a_killed_run_leaves_a_directory_that_the_next_one_takes(tmp_path):
    out = str(tmp_path / "run")
    killed = ranks.spawn(small.train, 2, out, "toy", {}, env={"LLMKIT_FAULT": "phase0@5:*"})
    assert [rank.code for rank in killed] == [-9, -9]
    ranks.run(small.train, 2, out, "toy", {})
    assert small.newest(out).name == "step_00000008"
