"""A job that runs a recipe on several nodes, described once and written in the dialect of whoever starts it.

    llmkit launch R.yaml --nodes 2 -n 8 --with slurm | torchrun | accelerate | k8s [--print]

On every node one `llmkit train` supervises that node's ranks (Slurm, Kubernetes), or the user's launcher
does (torchrun, accelerate). Nobody needs ssh or a hostfile. A stop on request exits with 75.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from llmkit import config
from llmkit.cluster import allocation, place
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import ConfigError
from llmkit.log import say

LEAD_S = 120
"""Seconds between the warning of a scheduler and its kill: a step, a checkpoint, and some room."""
PORT = 29_400
"""Where the nodes meet when nobody says otherwise; torchrun's own default."""


@dataclass(frozen=True)
class Job:
    """A recipe on `nodes` nodes with `ranks` ranks each. `gpus` of a node are asked for, if any."""

    name: str
    words: tuple[str, ...]
    """What stands after `llmkit`: train, the recipe, overrides, --device."""
    nodes: int = 1
    ranks: int = 1
    gpus: int = 0
    folder: Path = Path()
    """The working directory, which all nodes see."""
    python: str = "python"
    options: tuple[str, ...] = ()
    """Further options of the scheduler, as it writes them: --time=02:00:00."""

    @property
    def command(self) -> str:
        return shlex.join(["-m", "llmkit", *self.words])


def slurm(job: Job) -> str:
    """An sbatch script: one launcher per node. The warning before the time limit is a stop and a requeue."""
    asked = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        "--exclusive",
        *([f"--gpus-per-node={job.gpus}"] if job.gpus else []),
        f"--output={job.name}-%j.out",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{LEAD_S}",
        *job.options,
    ]
    header = "\n".join(f"#SBATCH {option}" for option in asked)
    start = shlex.join(allocation.srun(job.python, ["-m", "llmkit", *job.words, "-n", str(job.ranks)]))
    return f"""#!/usr/bin/env bash
{header}
# One launcher per node; they meet on the first. `scancel --signal=TERM JOB` stops the run with a checkpoint
# and exit code 75 (not with --full, which ends srun itself).
# {LEAD_S} s before the time limit Slurm sends USR1 here: the run stops likewise, and is queued again.
cd {shlex.quote(str(job.folder))} || exit 2
again=
trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM
{start} &
while true; do
  wait $!
  code=$?
  kill -0 $! 2>/dev/null || break # a signal ends wait, not srun
done
if [ "$code" = 75 ] && [ "$again" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def torchrun(job: Job) -> str:
    """The line to run on every node, with NODE_RANK=0.. and MASTER_ADDR set there."""
    words = [job.python, "-m", "torch.distributed.run", "--nnodes", str(job.nodes)]
    words += ["--nproc-per-node", str(job.ranks)]
    meet = "--standalone"
    if job.nodes > 1:
        meet = f'--node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port {PORT}'
    return f"{shlex.join(words)} {meet} {job.command}\n"


def accelerate(job: Job) -> str:
    """The line to run on every node, with NODE_RANK=0.. and MASTER_ADDR set there."""
    world = job.nodes * job.ranks
    kind = "--multi_gpu " if world > 1 else ""  # the type that starts several ranks without GPUs too
    how = f"{kind}--num_machines {job.nodes} --num_processes {world} --mixed_precision no --dynamo_backend no"
    meet = "--main_process_port 0"
    if job.nodes > 1:
        meet = '--machine_rank "$NODE_RANK" --main_process_ip "$MASTER_ADDR" --same_network'
        meet += f" --main_process_port {PORT}"
    return f"{shlex.quote(job.python)} -m accelerate.commands.launch {how} {meet} {job.command}\n"


def k8s(job: Job) -> str:
    """A headless Service and an Indexed Job, a pod per node; a stop (75) or lost rank (6) starts again."""
    name = re.sub(r"[^a-z0-9-]+", "-", job.name.lower()).strip("-")[:50]
    labels = {"app": name}
    env = {
        "PET_NNODES": str(job.nodes),
        "PET_MASTER_ADDR": f"{name}-0.{name}",
        "PET_MASTER_PORT": str(PORT),
    }
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    container = {
        "name": "llmkit",
        "image": "IMAGE-WITH-LLMKIT",
        "command": ["python", "-m", "llmkit", *job.words, "-n", str(job.ranks)],
        "workingDir": "/workspace",
        "env": [
            *({"name": key, "value": value} for key, value in env.items()),
            {"name": "PET_NODE_RANK", "valueFrom": index},
        ],
        "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
        **({"resources": {"limits": {"nvidia.com/gpu": job.gpus}}} if job.gpus else {}),
    }
    final = {"containerName": "llmkit", "operator": "In", "values": [1, 2, 3, 4, 5, 7]}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "None", "selector": labels, "publishNotReadyAddresses": True},
    }
    pods = {
        "subdomain": name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": LEAD_S,
        "containers": [container],
        "volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": "WORKSPACE-CLAIM"}}],
    }
    work = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completions": job.nodes,
            "parallelism": job.nodes,
            "completionMode": "Indexed",
            "backoffLimit": 20,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": final}]},
            "template": {"metadata": {"labels": labels}, "spec": pods},
        },
    }
    return yaml.safe_dump_all([service, work], sort_keys=False, width=110)


DIALECTS = {"slurm": slurm, "torchrun": torchrun, "accelerate": accelerate, "k8s": k8s}


def launch(
    recipe: str,
    overrides: list[str],
    nodes: int,
    scheduler: str,
    show: bool,
    options,
    extra: Sequence[str] = (),
) -> None:
    """Render `recipe` as a job, and submit it (slurm, k8s), run it (one node) or print it.

    `options` are verbs.Options, `extra` are lines for the scheduler. ConfigError if the recipe or the
    overrides are wrong, before anything is queued.
    """
    if scheduler not in DIALECTS:
        raise ConfigError(f"--with {scheduler}: is one of {', '.join(DIALECTS)}")
    settings = [word for word in overrides if not word.startswith("out=")]
    config.load(TrainRecipe, recipe, settings, options.quick)
    ranks = options.ranks or place.default_ranks(options.device)
    job = Job(
        name=f"llmkit-{config.locate(recipe, 'recipes').stem}",
        words=("train", recipe, *overrides, *options.argv()),
        nodes=nodes,
        ranks=ranks,
        gpus=0 if options.device == "cpu" else min(ranks, place.gpus()),
        folder=Path.cwd(),
        python=sys.executable,
        options=tuple(extra),
    )
    text = DIALECTS[scheduler](job)
    submit = {"slurm": ["sbatch"], "k8s": ["kubectl", "apply", "-f", "-"]}.get(scheduler)
    if show or (submit is None and nodes > 1):
        print(text, end="")
    elif submit is None:
        raise SystemExit(subprocess.call(["bash", "-c", text]))
    else:
        _submit(submit, text)


def _submit(command: list[str], text: str) -> None:
    if not shutil.which(command[0]):
        raise ConfigError(f"{command[0]}: is not installed here; use --print and submit the job where it is")
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ConfigError(f"{command[0]}: refused the job: {done.stderr.strip().splitlines()[-1]}")
    say(done.stdout.strip())


__all__ = ["Job", "accelerate", "k8s", "launch", "slurm", "torchrun"]
