"""The recipe of a training run: what `llmkit train` reads, and what every checkpoint carries resolved."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import model_validator

from llmkit.config import Component, Field, Quick, Section
from llmkit.engine.schedule import Schedule
from llmkit.models.adapter import Adapter


class Run(Section):
    """How long, how often, where."""

    out: str = Field("runs/train", description="the run directory")
    seed: int = Field(1, ge=0, description="seeds weights, data order and every draw")
    steps: int | None = Field(None, gt=0, description="optimiser steps; give steps or tokens")
    tokens: int | None = Field(
        None, gt=0, description="token budget; steps follow from rows and sequence length"
    )
    log_every: int = Field(10, gt=0, description="steps between lines of metrics")
    eval_every: int = Field(
        0, ge=0, description="steps between evaluations on held-out rows; 0: only at the end"
    )
    eval_rows: int = Field(
        256, gt=0, description="held-out rows of one evaluation, of each part if they are a mixture"
    )
    save_every: int = Field(0, ge=0, description="steps between checkpoints; 0: only at the end")
    save_in_background: bool = Field(
        False, description="write a checkpoint while training goes on, from a copy of it in host memory"
    )
    keep: int = Field(2, ge=1, description="newest checkpoints kept (the best one is kept besides)")
    best: bool = Field(
        False, description="remember the checkpoint with the best held-out metric, and use that one"
    )
    max_skips: int = Field(8, ge=1, description="non-finite steps in a row before the run is given up")
    max_failed_saves: int = Field(3, ge=1, description="failed saves in a row before the run stops")
    ledger: bool = Field(False, description="write down which rows every step is given, in the run's ledger/")
    profile: str | None = Field(
        None,
        pattern=r"^\d+:\d+$",
        description="steps to profile, from:to; a table and a Chrome trace go to profile/ of the run",
    )
    time_limit_s: float | None = Field(
        None, gt=0, description="seconds of training before a checkpointed stop"
    )
    quick_values: ClassVar[dict[str, Any]] = {
        "steps": 20, "tokens": None, "log_every": 5, "eval_every": 10, "eval_rows": 16, "save_every": 10,
    }  # fmt: skip


class Batches(Section):
    """The global batch, the same for every number of ranks."""

    rows: int = Field(16, gt=0, description="rows of one optimiser step, over all ranks and micro-batches")
    micro_rows: int | None = Field(None, gt=0, description="rows a rank holds at once; default: rows / ranks")
    start_rows: int | None = Field(
        None, gt=0, description="rows of the first step, if the batch grows; it grows by multiples of this"
    )
    grow_steps: int = Field(0, ge=0, description="steps in which the batch grows from start_rows to rows")
    quick_values: ClassVar[dict[str, Any]] = {
        "rows": 4, "micro_rows": None, "start_rows": None, "grow_steps": 0,
    }  # fmt: skip

    @model_validator(mode="after")
    def _grows(self):
        if (self.start_rows is None) != (self.grow_steps == 0):
            raise ValueError("start_rows: a growing batch needs both start_rows and grow_steps; give both")
        if self.start_rows and self.rows % self.start_rows:
            raise ValueError(f"start_rows: {self.start_rows} does not divide rows={self.rows}; change one")
        return self


class Optim(Section):
    """How gradients become steps, with clipping and an exponential moving average of the weights."""

    name: Literal["adamw", "lion", "sgd", "adamw_rms", "adafactor", "muon"] = Field(
        "adamw",
        description="adamw_rms: steps scaled by the parameter's size (T5); muon: hidden matrices, adamw for "
        "the rest; adafactor: ddp only",
    )
    lr: float = Field(1e-3, ge=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="moment decays")
    momentum: float = Field(0.95, ge=0, lt=1, description="sgd and muon: decay of the momentum")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(
        0.1, ge=0, description="on matrices only: not on norms, biases and embeddings"
    )
    clip: float = Field(1.0, ge=0, description="largest global gradient norm; 0: no clipping")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average; 0: none")
    clamp: float = Field(0.0, ge=0, description="weights are clamped to +-this after a step (WGAN); 0: no")
    nets: dict[str, dict[str, Any]] = Field({}, description="other values for one network: {d: {lr: 4e-4}}")

    @model_validator(mode="after")
    def _nets_are_settings(self):
        for changes in self.nets.values():
            Optim.model_validate({**changes, "nets": {}})
        return self

    def of(self, net: str) -> "Optim":
        """The settings for one network."""
        return Optim.model_validate({**self.model_dump(), **self.nets.get(net, {}), "nets": {}})


class Parallel(Section):
    """Where and how the numbers are computed; beyond rounding, it does not change what is computed."""

    backend: Literal["auto", "ddp", "zero1", "zero2", "zero3"] = Field(
        "auto", description="auto: the launcher's, else ddp"
    )
    offload: Literal["none", "optimizer", "params"] = Field(
        "none", description="what ZeRO keeps in host memory"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast where the hardware has it"
    )
    weights: Literal["fp32", "bf16"] = Field(
        "fp32", description="what ZeRO computes with; masters are always fp32"
    )
    tf32: bool = Field(
        False, description="fp32 products of a GPU in TF32: 8 times as fast, 10 bits of mantissa"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile; auto: if there is a compiler"
    )
    threads: int | None = Field(
        None, gt=0, description="CPU threads of a rank; default: physical cores / ranks"
    )
    timeout_s: float = Field(
        600, gt=0, description="a collective that waits longer means that a rank is lost"
    )
    quick_values: ClassVar[dict[str, Any]] = {"compile": "off", "precision": "fp32"}


class TrainRecipe(Section):
    """Everything that a run depends on."""

    quick: Quick = Field(False, description="a smoke run: few steps, tiny nets, no compile")
    run: Run = Run()
    init: str | None = Field(None, description="checkpoint, run or Hugging Face directory to start from")
    model: Annotated[Section, Component("model")] | None = Field(
        None, description="the net; default: that of `init`"
    )
    adapter: Adapter | None = Field(
        None, description="a low-rank adapter that learns instead of the weights of `init`; default: none"
    )
    objective: Annotated[Section, Component("objective")]
    data: Annotated[Section, Component("dataset")]
    batch: Batches = Batches()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    parallel: Parallel = Parallel()

    @model_validator(mode="after")
    def _complete(self):
        if (self.run.steps is None) == (self.run.tokens is None):
            raise ValueError("run.steps: give either run.steps or run.tokens")
        if self.model is None and self.init is None:
            raise ValueError("model: a run needs a model section or an `init` to take it from")
        if self.adapter and self.init is None:
            raise ValueError("adapter: needs a base to stand on; name its checkpoint as `init`")
        context = getattr(self.model, "context", None)
        for label, part in getattr(self.data, "parts", {"": self.data}).items():
            where = f"data.parts.{label}.seq_len" if label else "data.seq_len"
            if context and getattr(part, "seq_len", 0) > context:
                raise ValueError(
                    f"{where}: {part.seq_len} is longer than model.context of {context}; change one of them"
                )
        return self
