"""The figures of toy_example.py between two lines of its logs, and what reads its text log."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.run import Run
from storage.errors import UsageError
from storage.files import writing
from storage.pictures import new_figure, own_style
from storage.textlog import TextLog, read_figures


class Journal:
    """Means and times between two lines of the logs, and the text log; has state, so it resumes.

    path: of the text log, None for none. verbose: lines go to the terminal too. debug: so do the
    perplexities of draws.
    """

    def __init__(self, path: str | None, *, verbose: bool = False, debug: bool = False) -> None:
        self.log = TextLog(path)
        self.verbose, self.debug = verbose or debug, debug
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.seconds = {"Training": 0.0, "Selection": 0.0}

    def note(
        self, values: Mapping[str, Tensor], *, training: float = 0.0, selection: float = 0.0
    ) -> None:
        """Add the figures of a step, and its seconds; nothing waits for the device."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.double()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.seconds["Training"] += training
        self.seconds["Selection"] += selection

    def write(self, run: Run, step: int) -> None:
        """Means since the last line to the text log and, if wanted, to the terminal."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        spread = means.pop("Selection Perplexity", None)
        values = {"Examples Seen": float(run.nimg)}
        values |= {f"{kind} Time [min]": s / 60 for kind, s in self.seconds.items()} | means
        self.log.figures(step, values)
        if spread is not None:
            run.log(**{"Selection Perplexity": spread})
            self.log.say(f"Selection Perplexity = {spread:.6g}", "DEBUG")
        if self.verbose:
            run.say(f"Iteration = {step}, " + shown(values))
        if self.debug and spread is not None:
            run.say(f"Selection Perplexity = {spread:.6g} of the super-batch")

    def metrics(self, run: Run, step: int, found: Mapping[str, float], *, say: bool) -> None:
        """Figures of now, to every log; `say`: to the terminal in any case."""
        run.log_now(**found)
        self.log.figures(step, dict(found))
        if self.verbose or say:
            run.say(f"Iteration = {step}, {shown(found)}")

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.seconds = dict(state["seconds"])


def shown(values: Mapping[str, float]) -> str:
    """Figures in one line, with the two scores of samples, which Autoguided named, in words."""
    said = {_in_words(name): value for name, value in values.items()}
    return ", ".join(f"{name} = {value:.4g}" for name, value in said.items())


def _in_words(name: str) -> str:
    name = name.replace("Mandala Score", "share of cells in the tree")
    return name.replace("Classification Score", "share of samples in the tree")


def extract_results_from_log(path: str | Path) -> dict[str, dict[int, float]]:
    """{figure: {iteration: value}} of a log that --logging wrote. Errors: UsageError."""
    return read_figures(path)


@own_style()
def plot_loss(log: str | Path, save: str | Path | None = None) -> Path:
    """Draw all losses of a text log over iterations into a PNG (default: beside the log).

    Returns its path. Errors: UsageError for a log without a loss.
    """
    found = {k: v for k, v in extract_results_from_log(log).items() if k.endswith("Loss")}
    if not found:
        raise UsageError(f"the log {log} has no loss in it")
    path = Path(save) if save is not None else Path(log).with_suffix(".png")
    figure = new_figure(8, 5)
    ax = figure.add_subplot()
    for name, curve in found.items():
        mark = "o" if len(curve) < 3 else None
        ax.plot(list(curve), list(curve.values()), label=name, lw=1, marker=mark, markersize=3)
    ax.set(xlabel="iteration", ylabel="loss", yscale="log")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3, which="both")
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path
