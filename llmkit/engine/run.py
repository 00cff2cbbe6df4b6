"""One training run, put together: recipe -> data, nets, backend, saver -> the loop.

start ranks ─► settle the machine ─► open data ─► build nets ─► backend ─► resume or start from `init` ─► loop
"""

import functools
import json
import logging
from pathlib import Path
from typing import Any

import torch

from llmkit import adapted, config, dist, manifest, registry
from llmkit.checkpoint.runstate import RunDir, recorded
from llmkit.data.order import Growth
from llmkit.engine import adapt, columns, loop, optim, probe
from llmkit.engine.evaluate import Evaluator
from llmkit.engine.guard import Guard
from llmkit.engine.machine import settle
from llmkit.engine.meter import Meter
from llmkit.engine.profile import Profile
from llmkit.engine.recipe import TrainRecipe
from llmkit.engine.saver import Saver
from llmkit.engine.schedule import factor
from llmkit.engine.start import Start
from llmkit.engine.stop import Stop
from llmkit.errors import ConfigError
from llmkit.log import Metrics, say, warn
from llmkit.models import adapter, size
from llmkit.models.heads import build


def train(recipe: TrainRecipe, device: str = "auto", fresh: bool = False, met=lambda: None) -> dict[str, Any]:
    """Train `recipe` to its end, from wherever its run directory stands -> the run's manifest.

    Every rank calls this; `met()` is called once they have met, and may refuse. Raises LlmkitErrors, Stopped
    once a requested stop has published a checkpoint.
    """
    grouped = recipe.parallel.backend.startswith("zero")
    dist.start(device, recipe.parallel.timeout_s, group=grouped)
    try:
        met()
        return _Run(recipe, fresh).go()
    finally:
        dist.stop()


class _Run:
    def __init__(self, recipe: TrainRecipe, fresh: bool):
        self.settled = settle(recipe.parallel, dist.device())
        self.objective = registry.find("objective", recipe.objective.name)(recipe.objective)
        self.backend = _backend(self.settled)
        self.optims = {phase.net: recipe.optim.of(phase.net) for phase in self.objective.phases}
        _meant(recipe, self.objective, self.optims)
        self.backend.refuse(self.objective, self.settled)
        for settings in self.optims.values():
            optim.check(settings, self.settled)
            probe.check(self.backend, settings, self.settled)
        self.start = Start(recipe.init) if recipe.init else None
        stated = recipe.model is not None
        if recipe.model is None:
            recipe = recipe.model_copy(update={"model": self.start.model})
        elif hasattr(recipe.model, "begun"):  # a model around the one that the run starts from
            model = recipe.model.begun(self.start.model if self.start else None)
            recipe = recipe.model_copy(update={"model": model})
        if dist.rank() == 0:
            _say_unread(recipe, stated)
        self.train_set = registry.find("dataset", recipe.data.name)(recipe.data, "train", recipe.run.seed)
        self.heldout_set = registry.find("dataset", recipe.data.name)(recipe.data, "heldout", recipe.run.seed)
        self.recipe = resolved(recipe, self.train_set)
        if self.recipe.objective is not recipe.objective:
            self.objective = registry.find("objective", recipe.objective.name)(self.recipe.objective)
        if self.start:
            self.start.check(self.recipe, self.train_set)
            for line in self.start.compare(self.recipe.model) if stated else ():
                say(line)
        if self.recipe.adapter:
            adapter.check(self.recipe.adapter, self.recipe.model)
        self.fresh = fresh
        self.out = Path(recipe.run.out)

    def go(self) -> dict[str, Any]:
        recipe, lead = self.recipe, dist.rank() == 0
        directory = None
        if lead:
            directory = RunDir.open(self.out, recipe.model_dump(mode="json"), self.fresh)
            if "run.steps" in directory.changed:
                then, now = directory.changed["run.steps"]
                say(f"run.steps: {then} before, {now} now: the learning rate follows the schedule of {now}")
        dist.barrier("opening the run directory")
        try:
            with recorded(self.out), dist.explained():
                done = dist.broadcast(self._finished() if lead else None)
                if done:
                    say(f"train: {self.out} is done already")
                    return done
                return self._train()
        finally:
            if directory:
                directory.close()

    def _finished(self) -> dict[str, Any] | None:
        path = self.out / manifest.NAME
        facts = json.loads(path.read_text()) if path.exists() else {}
        config_hash = manifest.digest(_lasting(self.recipe))
        return facts if facts.get("config_hash") == config_hash and facts.get("status") == "done" else None

    def _train(self) -> dict[str, Any]:
        recipe = self.recipe
        objective = self.objective
        self.starts = {net: Start(checkpoint) for net, checkpoint in objective.inits.items()}
        for start in self.starts.values():
            start.check(recipe, self.train_set)
        backend = self.backend(objective, self._nets(objective), self.optims, self.settled, recipe.run.seed)
        if objective.column:
            datasets = {"train": self.train_set, "heldout": self.heldout_set}
            start = self.starts.get(objective.column_net, self.start)
            datasets = columns.attach(objective, start, self.settled, datasets)
            self.train_set, self.heldout_set = datasets["train"], datasets["heldout"]
        if objective.shows and self.train_set.tokenizer_dir:
            from llmkit.tokenizer.vocabulary import Tokenizer

            objective.tokenizer = Tokenizer.load(self.train_set.tokenizer_dir)
        data, heldout = self._loaders(objective, backend)
        meter = self._meter(objective, backend)
        saver = Saver(recipe, backend, objective, meter, self._lineage(), self.train_set.tokenizer_dir)
        begun = saver.resume()
        for net in backend.nets:
            start = self.starts.get(net, self.start)
            trained = net in backend.trained
            if start and (begun == 0 or not trained or recipe.adapter):  # a resumed run has what it trains
                start.fill(backend, net, resumed=trained and begun > 0)
        if self.settled.compile != "off":
            _compile(backend, self.settled.compile == "on", asked=recipe.parallel.compile == "on")
        steps = recipe.run.steps
        meter.open(Metrics(self.out, begun) if dist.rank() == 0 else None)
        guard, stop = Guard(recipe.run.max_skips), Stop(recipe.run.time_limit_s)
        guard.skipped = meter.skips
        meter.skipped = lambda: guard.skipped
        meter.planned = functools.partial(_planned, recipe, self.settled)
        batches = heldout.groups(recipe.run.eval_rows)
        pictures = {"pictures": meter.metrics.picture} if meter.metrics else {}
        folder = self.out / "samples"
        evaluator = Evaluator(objective, backend, batches, recipe.run.eval_every, steps, folder, **pictures)
        book = self._ledger(begun) if recipe.run.ledger else None
        data.ledger = book
        try:
            if begun == 0:
                if counts := getattr(self.train_set, "counts", None):
                    say("data: " + ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items()))
                for line in _preflight(self.train_set, self.heldout_set):
                    say(line)
                where = f"{dist.world()} x {dist.device().type}"
                how = f"{self.settled.backend}, {self.settled.precision}"
                size_ = f"{describe(backend)}; {steps} steps of {recipe.batch.rows} rows"
                say(f"{recipe.objective.name}: {size_} on {where}, {how}")
                if objective.batch_statistics:
                    say("this loss depends on which rows share a micro-batch: equal layouts, equal results")
            rate = functools.partial(factor, recipe.schedule, steps=steps)
            loop.train(steps, rate, objective, backend, data, evaluator, saver, meter, guard, stop, begun)
            facts = self._finish(saver, meter)
            say(f"train: {self.out} is done")
            return facts
        finally:
            saver.close()
            stop.close()
            meter.close()
            data.close()
            heldout.close()
            if book:
                book.close()
            backend.close()

    def _nets(self, objective) -> dict[str, torch.nn.Module]:
        quiet = False

        def make(head: str = "lm", net: str = "", outputs: int | None = None, **changes):
            nonlocal quiet
            quiet = quiet or changes.get("dropout") == 0.0
            model = self.starts[net].model if net in self.starts else self.recipe.model
            with torch.device("meta"):
                return build(model.model_copy(update=changes), head, outputs)

        nets, on = objective.build(make), self.recipe.adapter
        for key, section in (("model", self.recipe.model), ("adapter", on)):
            if quiet and getattr(section, "dropout", None) and dist.rank() == 0:
                warn(f"{key}.dropout: {self.recipe.objective.name} trains without; it is 0 in this run")
        return adapt.put_on(nets, objective, on.model_copy(update={"dropout": 0.0}) if on and quiet else on)

    def _loaders(self, objective, backend):
        from llmkit.data.loader import Loader

        batch = self.recipe.batch
        rows, growth = batch.rows, Growth(batch.rows, batch.start_rows, batch.grow_steps)
        micro = self.recipe.batch.micro_rows or -(-rows // backend.world)
        place = (micro, backend.rank, backend.world, self.recipe.run.seed)
        loader = Loader(self.train_set, growth, *place, draws=objective.draws)
        return loader, Loader(self.heldout_set, rows, *place)

    def _ledger(self, begun: int):
        from llmkit.data import ledger

        folder = self.out / "ledger"
        if dist.rank() == 0:
            ledger.forget(folder, begun)
        dist.barrier("opening the ledger")
        return ledger.Ledger(folder, begun, dist.rank())

    def _meter(self, objective, backend) -> Meter:
        settings = self.recipe.model
        seq_len = getattr(self.train_set, "seq_len", None)
        sides = getattr(getattr(self.train_set, "noise", None), "sides", {})
        known = seq_len and not self.recipe.adapter  # a backward that skips frozen weights costs less
        flops = size.flops_of(settings, seq_len, sides.get("tokens")) if known else None
        run = self.recipe.run
        profile = Profile(run.profile, self.out / "profile")
        return Meter(objective, backend, run.steps, run.log_every, flops, profile)

    def _lineage(self) -> dict[str, Any]:
        tokenizer = self.train_set.tokenizer_dir
        parents = {"data": self.train_set.fingerprint}
        if tokenizer:
            parents["tokenizer"] = manifest.fingerprint(tokenizer)
        if template := getattr(self.train_set, "template", None):
            parents["chat_template"] = template
        if self.start:
            parents["init"] = self.start.fingerprint
        parents |= {f"init_{net}": start.fingerprint for net, start in self.starts.items()}
        if self.recipe.adapter:
            starts = {phase.net: self.starts.get(phase.net, self.start) for phase in self.objective.phases}
            parents["bases"] = {n: adapted.note(s.path, s.fingerprint, self.out) for n, s in starts.items()}
        sources = {
            **(self.start.lineage["sources"] if self.start else {}),
            **_sources(self.recipe.data, self.train_set),
        }
        return {**parents, "sources": sources, "objective": self.recipe.objective.name}

    def _finish(self, saver: Saver, meter: Meter) -> dict[str, Any]:
        facts = None
        if dist.rank() == 0:
            kept = manifest.read(saver.newest())
            state = meter.state()
            result = {
                "steps": self.recipe.run.steps,
                "tokens": state["tokens"],
                "train_seconds": round(state["seconds"], 2),
                "tokens_per_second": round(state["tokens"] / state["seconds"], 1)
                if state["seconds"]
                else None,
                **saver.figures,
                "data": dict(getattr(self.train_set, "counts", {})),
                "best": saver.best if self.recipe.run.best else None,
                "checkpoint": saver.newest().name,
                "fingerprint": manifest.digest(kept["files"]),
            }
            config_ = self.recipe.model_dump(mode="json")
            manifest.write(
                self.out, verb="train", config=config_, config_hash=manifest.digest(_lasting(self.recipe)),
                inputs=self._lineage(), seconds=round(state["seconds"], 2), status="done", result=result,
            )  # fmt: skip
            facts = manifest.read(self.out)
        return dist.broadcast(facts)


def resolved(recipe: TrainRecipe, dataset) -> TrainRecipe:
    """The recipe with what only the data can tell: size of vocabulary or images, steps of a token budget."""
    model, run = recipe.model, recipe.run
    open_ = [key for key in DATA_TELLS if getattr(model, key, 0) is None and hasattr(dataset, key)]
    model = model.model_copy(update={key: getattr(dataset, key) for key in open_})
    if run.steps is None:
        if not hasattr(dataset, "seq_len") or recipe.data.name == "prompts":
            raise ConfigError(f"run.tokens: rows of {recipe.data.name} are of no known length; set run.steps")
        growth = Growth(recipe.batch.rows, recipe.batch.start_rows, recipe.batch.grow_steps)
        run = run.model_copy(update={"steps": growth.steps(-(-run.tokens // dataset.seq_len))})
    _fits(model, dataset)
    data = recipe.data
    if hasattr(dataset, "plan"):
        growth = Growth(recipe.batch.rows, recipe.batch.start_rows, recipe.batch.grow_steps)
        data = dataset.plan(growth.before(run.steps))
    objective = recipe.objective
    if getattr(objective, "margin", 0) and not getattr(dataset, "counts", {}).get("with_margin", 1):
        raise ConfigError("objective.margin: no pair of the data has a margin of its own; leave it out")
    told = [key for key in LABELS_TELL if hasattr(objective, key)]
    if missing := [key for key in told if not hasattr(dataset, key)]:
        raise ConfigError(
            f"data: {recipe.data.name} has no {missing[0]}, which objective {objective.name} learns; "
            "take data.name=labelled or tagged"
        )
    if told:
        objective = objective.model_copy(update={key: getattr(dataset, key) for key in told})
    changes = {"model": model, "run": run, "data": data, "objective": objective}
    return recipe.model_copy(update=changes)


def _meant(recipe: TrainRecipe, objective, trained) -> None:
    """ConfigError for settings that mean nothing to `objective`, whose nets `trained` are."""
    if unknown := sorted(set(recipe.optim.nets) - set(trained)):
        raise ConfigError(
            f"optim.nets.{unknown[0]}: {recipe.objective.name} trains no such net; it trains "
            f"{', '.join(trained)}"
        )
    if recipe.run.best and len(objective.phases) > 1 and "/" not in objective.metric:
        raise ConfigError(
            f"run.best: no held-out figure of {recipe.objective.name} says which checkpoint is the best; "
            "leave it out"
        )


def _say_unread(recipe: TrainRecipe, stated: bool) -> None:
    """Name the settings that were changed and that nothing reads; of the model, if the recipe `stated` it."""
    parts = {"objective": recipe.objective, "data": recipe.data, "schedule": recipe.schedule}
    for where, section in {**({"model": recipe.model} if stated else {}), **parts}.items():
        for key, only in config.unread(section, recipe.model).items():
            warn(f"{where}.{key}: is read with {only} alone; it has no effect here")


DATA_TELLS = ("vocab_size", "size", "channels", "fit", "classes", "words")
"""Settings of models that may be left out: the dataset's attribute of the same name is taken."""
LABELS_TELL = ("labels", "several")
"""Settings of objectives that are the dataset's attributes of the same name."""


def _fits(model, dataset) -> None:
    size_, needed = getattr(model, "vocab_size", None), getattr(dataset, "vocab_size", None)
    if size_ and needed and size_ < needed:
        raise ConfigError(
            f"model.vocab_size: {size_} is smaller than the data's vocabulary of {needed}; leave it out"
        )
    for key in ("size", "channels"):
        mine, theirs = getattr(model, key, None), getattr(dataset, key, None)
        if mine and theirs and mine != theirs:
            raise ConfigError(
                f"model.{key}: {mine}, but the images have {theirs}; leave it out, or change data.{key}"
            )
    classes, there = getattr(model, "classes", None), getattr(dataset, "classes", None)
    if hasattr(dataset, "channels") and classes and there and classes < there:
        raise ConfigError(
            f"model.classes: {classes}, but the images' labels go from 0 to {there - 1}; leave it out"
        )
    words, there = getattr(model, "words", None), getattr(dataset, "words", None)
    if there is not None and getattr(model, "conditional", False) and tuple(words or ()) != there:
        raise ConfigError(
            f"model.words: {len(words or ())} words of captions, but the data tells {len(there)}, or others; "
            "leave it out, or set data.captions and data.source as they were"
        )
    start, read = getattr(model, "start", None), getattr(dataset, "start", None)
    if bool(start) != bool(read) and hasattr(dataset, "vocab_size") and hasattr(model, "vocab_size"):
        raise ConfigError(
            f"data: rows have {'two sides' if read else 'one side'}, and a model that is "
            f"{'no' if read else 'an'} encoder-decoder reads {'one' if read else 'two'}; change data or model"
        )
    if start and read and start != read:
        raise ConfigError(
            f"model.start: {start}, but the data's decoder reads {read} first; set model.start={read}"
        )
    context, seq_len = getattr(model, "context", None), getattr(dataset, "seq_len", None)
    if context and seq_len and seq_len > context:
        raise ConfigError(
            f"data.seq_len: {seq_len} is longer than model.context of {context}; change one of them"
        )


def _sources(data, dataset) -> dict[str, Any]:
    """{source: its licence and origin}: the dataset's own, or those of the directories that it reads."""
    if hasattr(dataset, "licences"):
        return dataset.licences
    if hasattr(dataset, "parts"):
        every = [_sources(part.settings, part) for part in dataset.parts.values()]
        return {name: facts for found in every for name, facts in found.items()}
    folders = [getattr(data, key) for key in ("data", "shards") if hasattr(data, key)]
    return {
        name: facts for folder in folders for name, facts in manifest.read(folder).get("licences", {}).items()
    }


def _preflight(*datasets) -> list[str]:
    """What fine-tuning data sets, or the parts of a mixture, found out about their records."""
    parts = [part for data in datasets for part in getattr(data, "parts", {"": data}).values()]
    return [line for part in parts if hasattr(part, "preflight") for line in part.preflight.lines()]


def _planned(recipe: TrainRecipe, settled, measured: int) -> str:
    from llmkit.engine import plan

    try:
        bf16 = settled.precision == "bf16"
        return plan.compared(recipe, settled.backend, dist.world(), bf16, measured)
    except Exception as error:  # a plan is no reason to lose a run
        return f"memory: {measured / 2**30:.2f} GiB at the peak; no plan: {str(error).splitlines()[0]}"


def _lasting(recipe: TrainRecipe) -> dict[str, Any]:
    """What decides whether a finished run is this run: everything but where and how it is computed."""
    tree = recipe.model_dump(mode="json")
    return {key: value for key, value in tree.items() if key != "parallel"}


def _backend(settled):
    if settled.backend == "ddp":
        from llmkit.engine.backend_ddp import Ddp

        return Ddp
    from llmkit.engine.backend_zero import Zero

    return Zero


def _compile(backend, parts: bool, asked: bool) -> None:
    """Compile what the nets offer; without `parts` their attention alone.

    ConfigError if that was `asked` for and none of them offers anything.
    """
    able = [net for net in backend.nets.values() if type(net).compile is not torch.nn.Module.compile]
    if asked and not able:
        names = ", ".join(type(net).__name__ for net in backend.nets.values())
        raise ConfigError(f"parallel.compile: on, but nothing in {names} can be compiled; leave it out")
    for name in ("torch._dynamo", "torch._higher_order_ops"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for net in able:
        net.compile(parts=parts)


def describe(backend) -> str:
    """`model 4.2 M parameters`, for each trained network; with an adapter also how many of them learn."""
    return ", ".join(f"{name} {_sizes(backend.nets[name])}" for name in backend.trained)


def _sizes(net: torch.nn.Module) -> str:
    learning = f", {millions(net, learning=True)} M of them learn" if hasattr(net, "borrowed") else ""
    return f"{millions(net)} M parameters{learning}"


def millions(net: torch.nn.Module, learning: bool = False) -> str:
    chosen = [p for p in net.parameters() if p.requires_grad or not learning]
    return f"{sum(getattr(p, 'ds_numel', p.numel()) for p in chosen) / 1e6:.3g}"
