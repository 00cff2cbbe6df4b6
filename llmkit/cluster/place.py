"""Where this process stands among the nodes of a job: alone, or node k of n, as its environment says.

Slurm     srun --ntasks-per-node=1 llmkit train ...    one launcher per node; rendezvous on the first node
others    PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT, which torchrun and Kubeflow use too
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmkit.errors import ConfigError

PORTS = range(20_000, 30_000)
"""A job's number picks its rendezvous port here: below Linux's ephemeral range."""


@dataclass(frozen=True)
class Place:
    """Node `rank` of `nodes`; the nodes meet at `host`:`port`. A single node takes any free port."""

    nodes: int = 1
    rank: int = 0
    host: str = "127.0.0.1"
    port: int | None = None


def find(env: Mapping[str, str] = os.environ) -> Place:
    """The place that `env` describes. ConfigError if a scheduler started more than one task on a node."""
    if int(env.get("PET_NNODES", 1)) > 1:
        try:
            rank, host, port = env["PET_NODE_RANK"], env["PET_MASTER_ADDR"], env["PET_MASTER_PORT"]
        except KeyError as missing:
            raise ConfigError(
                f"{missing.args[0]}: is not set, but PET_NNODES={env['PET_NNODES']}; set it"
            ) from None
        return Place(int(env["PET_NNODES"]), int(rank), host, int(port))
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_NODES", 1)) > 1:
        if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > int(env["SLURM_STEP_NUM_NODES"]):
            raise ConfigError(
                "srun: started several tasks on a node; use --ntasks-per-node=1, and -n for the ranks"
            )
        return Place(
            int(env["SLURM_STEP_NUM_NODES"]),
            int(env["SLURM_NODEID"]),
            _first_host(env["SLURM_STEP_NODELIST"]),
            PORTS[(int(env["SLURM_JOB_ID"]) * 31 + _step(env["SLURM_STEP_ID"])) % len(PORTS)],
        )
    return Place()


def _step(number: str) -> int:
    return int(number) if number.isdigit() else 0


def _first_host(nodes: str) -> str:
    """The first of a Slurm node list: `gpu[03-05,9]-ib,login` gives gpu03-ib."""
    return re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", nodes).split(",")[0]


def gpus(env: Mapping[str, str] = os.environ) -> int:
    """How many NVIDIA GPUs this process may use, without importing torch."""
    if "CUDA_VISIBLE_DEVICES" in env:
        return len(
            [name for name in env["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
        )
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


def default_ranks(device: str = "auto") -> int:
    """Ranks on this node if nobody said how many: one per GPU, or one."""
    return max(1, gpus()) if device != "cpu" else 1


__all__ = ["Place", "default_ranks", "find", "gpus"]
