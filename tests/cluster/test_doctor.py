"""doctor says what is here and what follows, on whatever machine runs it."""

from llmkit.cluster import doctor


def by_name() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.findings()}


def test_every_finding_says_what_follows_from_it():
    found = doctor.findings()
    assert all(line.what and line.found and line.so for line in found)
    assert len({line.what for line in found}) == len(found)


def test_without_a_compiler_doctor_says_what_falls_away(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    compiler = by_name()["C++ compiler"]
    assert not compiler.good
    assert "no ZeRO on a CPU" in compiler.so


def test_an_allocation_of_several_nodes_is_seen(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_NNODES", "4")
    assert by_name()["nodes"].found == "4, Slurm job 17"


def test_the_table_is_printed(capsys):
    doctor.show()
    assert "torch" in capsys.readouterr().out
