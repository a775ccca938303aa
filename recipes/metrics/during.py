"""Figures during training: what `calculate_metrics.py gen` would say of the network of now.

    measuring = During(args, run, images.source, res=images.resolution, crop=args.crop)
    for step in run.steps(total):
        ...
        if measuring.due(step + 1):
            measuring(average.module, "edm2", config)

Options are those of `recipes.measuring`, off by default. Pictures of the
same seeds are drawn each time, on all ranks, and none is written; training's random numbers are
left alone, so that a run is the same with and without.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from data.sources import Source, evenly
from evaluation.verdict import seed_ranges
from generators.base import Setup
from generators.door import make_generator
from generators.imle import ConditionalIMLE
from generators.omnigan import Omnigan
from recipes.generate.options import OPTIONS as GENERATE
from recipes.metrics import parts
from recipes.metrics.measures import Sides, figures
from recipes.metrics.names import metrics_of
from recipes.metrics.options import CALC, READING, REFERENCE, WHAT
from recipes.metrics.passing import Seen, look
from recipes.metrics.pictures import Stored, inputs_from
from runtime import distributed
from runtime.options import kept_name, rows_of
from runtime.precision import full_fp32
from runtime.run import Run
from storage.errors import UsageError
from storage.snapshot import Snapshot

MOST = 50_000  # pictures of the training set that samples are compared with
# Of what training does not have.
_ELSEWHERE = frozenset(("fdr", "fld", "memorisation", "scenefid", "top"))


class During:
    """Measures networks of a run against the pictures that it is trained on.

    train: those pictures; may be None with --metrics_ref or without --metrics_every. res, crop: how
    the network sees them. inputs: pictures to draw from, for networks with an input. Errors, before
    training: UsageError for weights that are not there.
    """

    def __init__(
        self,
        args: Namespace,
        run: Run,
        train: Source | None,
        *,
        res: int,
        crop: str,
        inputs: Source | None = None,
        vae: str | None = None,
        steps: int | None = None,
    ) -> None:
        self.every, self.run, self.inputs = args.metrics_every, run, inputs
        if self.every is None:
            return
        self.setup = Setup(run.device, vae=vae)
        try:
            wanted = metrics_of(args.metrics, ["inception"])
        except ValueError as error:
            raise UsageError(str(error)) from None
        if odd := [m.name for m in wanted if m.measure in _ELSEWHERE]:
            raise UsageError(f"--metrics {odd[0]} is of calculate_metrics.py, not of training")
        own = {kept_name(row): row[2] for row in rows_of(GENERATE)}
        for table in (WHAT, REFERENCE, READING, CALC):
            own |= {kept_name(row): row[2] for row in rows_of(table)}
        self.args = Namespace(
            **{
                **own,
                "steps": steps or own["steps"],
                "guidance": 1.0,
                "seeds": None,
                "seed": 0,
                "samples": 1,
                "num": args.metrics_num,
                "res": res,
                "crop": crop,
                "ref": args.metrics_ref,
                "weights": args.metrics_weights,
                "wanted": wanted,
                "data_path": getattr(args, "data_path", None),
                "num_workers": args.num_workers,
                "batch": None,
                "bootstrap": 0,
                "command": "gen",
                "num_images": None,
            }
        )
        self.reference = parts.reference(self.args)
        if self.reference is None:
            assert train is not None
            num = min(MOST, len(train))
            pictures = Stored(train, num, res=res, crop=crop, workers=args.num_workers)
            self.reference = parts.Reference(None, pictures, pictures.about)
        statistics = self.reference.statistics
        self.tools = parts.tools(self.args, run.device, statistics)
        if statistics is not None:
            parts.check_policies(statistics, self.tools.extractors, "--metrics_ref")
        self.real: Seen | None = None
        self.drawn = self.args.num

    def due(self, done: int) -> bool:
        """Whether to measure after so many steps."""
        return self.every is not None and done % self.every == 0

    def __call__(self, net: nn.Module, kind: str, config: Mapping[str, Any]) -> None:
        """Draw from a network with these weights and log the figures. All ranks call.

        kind, config: as its snapshot would have them. Errors: UsageError, NonFiniteError.
        """
        with self.run.spent.on("validation"):
            self._measure(net, kind, config)

    def _measure(self, net: nn.Module, kind: str, config: Mapping[str, Any]) -> None:
        device = self.run.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            state = {k: v.detach().cpu() for k, v in net.state_dict().items()}
            made = make_generator(Snapshot(state, kind, dict(config), {}), self.setup)
            with full_fp32():
                found = self._figures(parts.Network(made, None, self._inputs(made)))
        self.run.log_now(**{f"metrics/{name}": value for name, value in found.items()})
        said = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        fewer = "" if self.drawn == self.args.num else ", as many as there are inputs"
        self.run.say(f"metrics of {self.drawn} pictures{fewer}: {said}")

    def _inputs(self, made: Any) -> Any:
        if not isinstance(made, ConditionalIMLE | Omnigan):
            return None
        if self.inputs is None:
            raise UsageError("--metrics_every: this network draws pictures of pictures")
        return inputs_from(evenly(self.inputs, self.args.num), made)

    def _figures(self, network: parts.Network) -> dict[str, float]:
        args, device = self.args, self.run.device
        batch = parts.batch_of(args, device)
        if self.real is None:
            assert self.reference is not None
            self.real = self.reference.seen(self.tools, batch, keep=True)
        values: dict[str, list[float]] = {}
        for pictures, watch in parts.ranges(args, network):
            seen = look(pictures, self.tools.all(), batch=batch, desc="metrics", watch=watch)
            sides = Sides(seen, self.real, None, args, device)
            self.drawn = seen.n
            judge = partial(figures, args.wanted, self.tools.names, sides)
            found = distributed.from_main(judge)
            found |= watch.figures() if watch else {}
            for name, figure in found.items():
                values.setdefault(name, []).append(figure.value)
        return {name: seed_ranges(v).mean for name, v in values.items()}
