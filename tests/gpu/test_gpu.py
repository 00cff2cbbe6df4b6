"""llmkit on a GPU that is not there (device.py): no tensor stays on the CPU, the host waits where it must.

Every problem of the parity tests takes two steps there; `llmkit train` and `generate` run whole. Numbers are
the CPU's but for the paths that depend on the device: fused attention, grouped heads, the norm of gradients.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import device, steps

ROOT = Path(__file__).parents[2]
HERE = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
"""The environment of a process without the GPU."""
LIMITS = {"norms": 1e-6, "weights": 5e-7}
"""Relative difference of a gradient norm and largest difference of a weight after two steps: 2e-7 and 1.3e-7
were seen."""
MUON = {"norms": 1e-4, "weights": 1e-3}
"""Those of Muon, whose products are bf16 on a GPU: 1.3e-5 and 2.3e-4 were seen."""

READ = "_local_scalar_dense @ {}"
IN_TRAINING = ("engine/loop.py:take_update", "objectives/text/causal.py:Causal.loss")
LABELS = "how many positions have a label decides a shape"
HOST = "a controller decides on the host"
WAITS = {
    "nonzero @ models/layer.py:at_labels": LABELS,
    "index @ objectives/tune/classify.py:Classify.loss": LABELS,
    "index @ objectives/tune/distill.py:Distill._distributions": LABELS,
    "index @ objectives/tune/distill.py:Distill._logp": LABELS,
    "index @ objectives/tune/distill.py:Distill.loss": LABELS,
    "index @ objectives/tune/seq2seq.py:smoothed_nll": LABELS,
    "index @ objectives/tune/span.py:Span.loss": LABELS,
    "index @ objectives/tune/tag.py:Tag.loss": LABELS,
    "index_put @ elsewhere": "the backward of those",
    READ.format("objectives/rl/policy.py:PolicyGradient.after"): HOST,
    READ.format("objectives/tune/kto.py:Kto.after"): HOST,
    READ.format("objectives/vision/gan.py:GanObjective.after"): HOST,
    READ.format("objectives/vision/vq.py:VqObjective.after"): HOST,
    READ.format("engine/optim.py:Optimizer.step"): "all rules but AdamW's ask whether the gradient is finite",
    READ.format("engine/rules.py:adafactor"): "torch's own reads norms",
    "_to_copy @ models/experts.py:_one_by_one": "in fp32 each expert has a product of its own",
}
"""Where the host waits for the device in a step, and why."""
FREE = (
    "causal",
    "sft",
    "denoise",
    "reward",
    "dpo",
    "vision_vae",
    "vision_gan",
    "vision_stylegan",
    "vision_pixel",
)
"""Problems in whose steps it waits for nothing."""
MADE = ("two_denominators", "penalised_gan", "clamped_gan", "rollouts")
"""The tests' own objectives, which read what they like."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not any(map(shutil.which, device.COMPILERS)),
    reason="torch is shown a GPU by LD_PRELOAD of what a C++ compiler makes",
)


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that has the GPU."""
    return device.environment(tmp_path_factory.mktemp("gpu")) | {"OMP_NUM_THREADS": "1"}


def run(env: dict[str, str], module: str, *args: str) -> list[str]:
    """The lines that `python -m MODULE ARGS` prints."""
    command = [sys.executable, "-m", module, *args]
    found = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    return found.stdout.splitlines()


@pytest.fixture(scope="module")
def scenes(there):
    return json.loads(run(there, "tests.gpu.scenes")[-1])


@pytest.mark.parametrize(
    ("scene", "line"),
    [
        ("a sum of both devices", "cuda:0 beside cpu tensors of shapes [[3]]"),
        ("a write to the CPU", "cuda:0 beside cpu tensors of shapes [[]]"),
        ("a list of both devices", "cuda:0 beside cpu tensors of shapes [[3]]"),
        ("a generator of the CPU", "a generator of the CPU beside cuda:0"),
        ("a forgotten device in training", "cuda:0 beside cpu tensors of shapes [[1]]"),
    ],
)
def test_what_cuda_refuses_is_refused(scenes, scene, line):
    assert line in scenes[scene]["raised"]


@pytest.mark.parametrize(
    ("scene", "waits"),
    [
        ("a CPU tensor as a number", {}),
        ("CPU indices", {}),
        ("sums, views and products", {}),
        ("a number read", {READ.format("elsewhere"): 1}),
        ("a list read", {"_to_copy @ elsewhere": 1}),
        ("a mask as an index", {"index @ elsewhere": 1}),
        ("a tensor of host numbers", {"_to_copy @ elsewhere": 1}),
        ("a copy that blocks", {"_to_copy @ elsewhere": 1}),
        ("a copy that does not block", {}),
        ("a copy to pinned memory", {}),
        ("a copy to pageable memory", {"copy_ @ elsewhere": 1}),
        (
            "a number read in training",
            {
                READ.format("engine/loop.py:take_update"): 3,
                READ.format("objectives/text/causal.py:Causal.loss"): 3,
            },
        ),
    ],
)
def test_what_makes_the_host_wait_is_counted(scenes, scene, waits):
    assert scenes[scene] == {"raised": None, "waits": waits}


@pytest.fixture(scope="module")
def taken(there):
    """What tests.gpu.steps says of each problem."""
    found = map(json.loads, run(there, "tests.gpu.steps"))
    return {line.pop("problem"): line for line in found}


@pytest.mark.slow
@pytest.mark.parametrize("problem", steps.PROBLEMS)
def test_steps_on_the_gpu_are_those_on_the_cpu(taken, problem):
    found = taken[problem]
    assert "error" not in found, found["error"]
    for name, limit in (MUON if problem == "muon" else LIMITS).items():
        assert found[name] <= limit
    if problem not in MADE:
        assert found["waits"].keys() | found["bf16"].keys() <= (set() if problem in FREE else WAITS.keys())


@pytest.fixture(scope="module")
def runs(there, code_shards, tmp_path_factory):
    """-> (folder with the runs cpu and gpu of one recipe, the waits of the latter's steps)"""
    root = tmp_path_factory.mktemp("runs")
    keys = {
        "data.shards": code_shards, "run.steps": 6, "run.log_every": 1, "run.eval_every": 3,
        "run.save_every": 3, "run.eval_rows": 8, "parallel.precision": "fp32", "parallel.compile": "off",
    }  # fmt: skip
    asked = ["train", "pretrain/gpt2_tiny", *(f"{key}={value}" for key, value in keys.items())]
    run(HERE, "llmkit", *asked, f"out={root / 'cpu'}", "--device", "cpu")
    lines = run(there, "tests.gpu.cli", *asked, f"out={root / 'gpu'}", "--device", "gpu")
    return root, json.loads(lines[-1])


@pytest.mark.slow
def test_a_run_on_the_gpu_is_the_one_on_the_cpu(runs):
    root, _ = runs
    cpu, gpu = (
        [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("cpu", "gpu")
    )
    for name in ("loss", "grad_norm", "heldout/loss"):
        expected = [line[name] for line in cpu if name in line]
        assert len(expected) >= 2
        assert [line[name] for line in gpu if name in line] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_steps_of_a_run_wait_for_nothing(runs):
    """But the first, which makes the optimiser's state, and those with an evaluation."""
    _, waits = runs
    assert [step for step, made in waits.items() if made] == ["1", "3", "6"]
    assert waits.keys() == set("123456")


@pytest.mark.slow
def test_what_is_written_on_the_gpu_is_what_is_written_on_the_cpu(there, runs):
    root, _ = runs
    asked = [
        "generate",
        str(root / "gpu"),
        "--prompt",
        "import",
        "--max-tokens",
        "24",
        "--seed",
        "3",
        "--device",
    ]
    on_cpu = run(HERE, "llmkit", *asked, "cpu")
    assert "\n".join(on_cpu) in "\n".join(run(there, "tests.gpu.cli", *asked, "gpu"))
