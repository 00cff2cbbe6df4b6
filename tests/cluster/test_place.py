"""Where a process finds itself, from the environments that schedulers really set."""

import pytest

from llmkit.cluster import place
from llmkit.cluster.place import Place
from llmkit.errors import ConfigError

SLURM_STEP = {
    "SLURM_JOB_ID": "17",
    "SLURM_NNODES": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_NODEID": "1",
}


def test_without_a_scheduler_there_is_one_node():
    assert place.find({}) == Place()


def test_a_slurm_step_meets_on_its_first_node_at_a_port_of_the_job():
    found = place.find(SLURM_STEP)
    assert (found.nodes, found.rank, found.host) == (2, 1, "gpu03")
    assert found.port in place.PORTS
    assert place.find({**SLURM_STEP, "SLURM_NODEID": "0"}).port == found.port
    assert place.find({**SLURM_STEP, "SLURM_JOB_ID": "18"}).port != found.port


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a,b", "a"),
        ("gpu[03-05,9]", "gpu03"),
        ("n[1,3]-x", "n1-x"),
        ("r[2-3]n[07-09]", "r2n07"),
        ("rack-1-node2,rack-2-node1", "rack-1-node2"),
    ],
)
def test_the_first_of_a_node_list(nodes, first):
    assert place.find({**SLURM_STEP, "SLURM_STEP_NODELIST": nodes}).host == first


def test_a_batch_script_is_not_yet_on_several_nodes():
    assert place.find({key: value for key, value in SLURM_STEP.items() if "STEP" not in key}) == Place()


def test_several_tasks_on_a_node_are_refused():
    with pytest.raises(ConfigError, match="--ntasks-per-node=1"):
        place.find({**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "8"})


def test_the_names_that_torchrun_and_kubeflow_use():
    env = {"PET_NNODES": "3", "PET_NODE_RANK": "2", "PET_MASTER_ADDR": "job-0", "PET_MASTER_PORT": "29400"}
    assert place.find(env) == Place(3, 2, "job-0", 29400)
    with pytest.raises(ConfigError, match="PET_NODE_RANK: is not set"):
        place.find({"PET_NNODES": "3"})


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2), ("GPU-aa,GPU-bb", 2)]
)
def test_gpus_are_those_that_are_visible(visible, count):
    assert place.gpus({"CUDA_VISIBLE_DEVICES": visible}) == count
