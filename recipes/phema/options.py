"""What may be asked of reconstruct_phema.py: the preset, the option table, lists of widths."""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from runtime.cli import parse
from runtime.options import Table, add_options, add_preset, also
from runtime.types import (
    called,
    count,
    dir_path,
    list_of,
    nonnegative_int,
    number,
    short_name,
)
from storage.errors import UsageError

PRESETS = {
    "smoke": {
        "_help": "a made-up run of a tiny network, CPU; tells how far off the averages are",
        "outstd": [0.05, 0.07, "...", 0.11],
    },
}  # fmt: skip

std_number = number(0, 12**-0.5, lo_open=True, hi_open=True)


def std_word(word: str) -> float | str:
    """Type of an element of --outstd: a width or `...`."""
    return word if word == "..." else std_number(word)


called("FLOAT", std_word)


# fmt: off
OPTIONS: Table = {
    "inputs": [
        ("--indir", dir_path, None, "a run's folder, or that of its snapshots; NVIDIA's raw .pkl "
         "too, converted or not (required)"),
        ("--inprefix", short_name, None, "only files of this NAME-NUMBER-WIDTH, or whose names "
         "begin so (default: network-snapshot, or where there is none all but phema)"),
        ("--instd", list_of(std_word), None, "only snapshots of these EMA widths: a, or a,b,c, or "
         "a,b,...,c (default: all)"),
    ],
    "outputs": [
        ("--outdir", dir_path, None, "where results go; DIR lies below RESULTS/reconstruct_phema, "
         "./DIR in the working directory (default: beside the inputs)"),
        ("--outprefix", short_name, "phema", "beginning of the results' names"),
        ("--outstd", list_of(std_word), None, "EMA widths: a, or a,b,c, or a,b,...,c "
         "(required)"),
        ("--outkimg", nonnegative_int, None, "time in thousands of trained images (default: last)"),
        ("--out_step", nonnegative_int, None, "time in optimizer steps, as in the snapshots' names "
         "(default: the last)", also("--out-epoch")),
        ("--skip", bool, False, "leave results that exist already, whatever they are made of"),
        ("--overwrite", bool, False, "make results of this script anew"),
        ("--batch", count(10_000), 8, "results made at a time, each held in memory"),
    ],
}
# fmt: on


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of reconstruct_phema.py; a wrong one exits with code 2.

    doc: what --help begins with.
    """
    parser = argparse.ArgumentParser(description=doc)
    add_preset(parser)
    add_options(parser, OPTIONS)
    args = parse(parser, PRESETS, argv)
    args.gpus = []  # for `launch`: one process whatever the machine has
    try:
        check(args)
    except (ValueError, UsageError) as error:
        parser.error(str(error))
    return args


def check(args: Namespace) -> None:
    """Rules between options; --outstd becomes a list of widths. Errors: ValueError, UsageError."""
    if args.indir is None and args.preset != "smoke":
        raise ValueError("--indir is missing: the snapshots folder of a run")
    if args.skip and args.overwrite:
        raise ValueError("--skip leaves results, --overwrite makes them anew: give one")
    if not args.outstd:
        raise ValueError("--outstd is missing: EMA widths such as 0.050,0.060,...,0.150")
    if args.outkimg is not None and args.out_step is not None:
        raise ValueError(
            f"--outkimg {args.outkimg} and --out_step {args.out_step}: one time, not two"
        )
    if Path(args.outprefix).name != args.outprefix:
        raise ValueError(
            f"--outprefix {args.outprefix}: the beginning of a name; folders: --outdir"
        )
    args.outstd = expand(args.outstd)
    args.instd = expand(args.instd, "--instd") if args.instd else None


def expand(words: Sequence[float | str], option: str = "--outstd") -> list[float]:
    """0.1, 0.2, "...", 0.5 -> 0.1, 0.2, 0.3, 0.4, 0.5. option: for errors. Errors: UsageError."""
    out: list[float] = []
    rest = list(words)
    shown = ",".join(map(str, words))
    while rest:
        word = rest.pop(0)
        if word != "...":
            out.append(float(word))
            continue
        if len(out) < 2 or not rest or rest[0] == "...":
            raise UsageError(f"{option} {shown}: `...` stands between a,b and c")
        end, step = float(rest.pop(0)), out[-1] - out[-2]
        count = round((end - out[-1]) / step) if step else 0
        if count < 1 or abs(out[-1] + count * step - end) > 1e-6:
            raise UsageError(f"{option} {shown}: steps of {step:g} do not lead to {end:g}")
        start = out[-1]
        out += [round(start + k * step, 9) for k in range(1, count)] + [end]
    names = [f"{std:.3f}" for std in out]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or "0.000" in names:
        raise UsageError(f"{option} {shown}: not told apart in file names, {twice or '0.000'}")
    return out
