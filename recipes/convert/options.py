"""What may be asked of convert.py: what a file does not say, and what is to be written."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from data.views.recipes import NORMALISATIONS
from generators.foreign.contents import Asked
from imle.original import TASKS
from models.omnigan.domains import DOMAINS, FLOODS
from recipes.convert.program import WORDS
from recipes.convert.targets import TARGETS
from runtime.cli import parse
from runtime.options import USUAL, Rules, Table, add_options
from runtime.types import (
    Switch,
    file_path,
    finite_float,
    levels,
    list_of,
    side,
    text,
    text_called,
)
from storage.errors import UsageError
from storage.files import expanded, read_object

OUTPUT: Table = {
    "output": [
        ("--to", tuple(TARGETS), None, "write the network in this format (default: say what the "
         "file is, write nothing)", USUAL),
        ("--out", file_path, None, "the file or folder to write (default: beside FILE, or of a run "
         "below RESULTS/convert, by its name)", USUAL),
        ("--overwrite", Switch, False, "replace what is there", USUAL),
    ],
}  # fmt: skip
SAID: Table = {
    "what a file of others does not say": [
        ("--task", TASKS, None, "of a CAM-Net of the code release or CHIMLE (default: as its "
         "weights show)", USUAL),
        ("--res", list_of(side), None, "resolutions: r_0 .. r_L of a CAM-Net, the side of other "
         "pictures (default: as the file says, or the published)", USUAL),
        ("--config", file_path, None, "a JSON file with arguments of the original network, for "
         "what its weights do not show, as num_heads (default: none)"),
        ("--weights", ("ema", "last"), "ema", "of latent diffusion the averages of the weights, or "
         "the last ones"),
        ("--normalise", tuple(NORMALISATIONS), None, "how an encoder's pictures were normalised "
         "(default: as its code does, which is said)"),
    ],
}  # fmt: skip
PROGRAM: Table = {
    "of --to pt2 and onnx": [
        ("--program", WORDS, None, "what to give out: images or the denoiser of EDM2 and DDPM, "
         "features or the projection of an encoder, of omnigan the translation or what a decoder "
         "sees (default: images, features or translate)", USUAL),
        ("--steps", levels, None, "of EDM2 by Heun's method (default: 32), of DDPM by DDIM (50)",
         USUAL),
        ("--guide", text_called("FILE|DIR|NAME"), None, "EDM2: the guide, a weaker or an "
         "unconditional network, which the program has in it (default: none)"),
        ("--guidance", finite_float, None, "EDM2: weight of the guidance, GUIDE + W * (NET - "
         "GUIDE) (required with --guide)"),
        ("--domain", (*FLOODS, *DOMAINS), None, "omnigan: what pictures become: f flooded, n not, "
         "or as of a domain (rf, rn, sf, sn) (default: f)"),
    ],
}  # fmt: skip
OPTIONS: Table = {**OUTPUT, **SAID, **PROGRAM}


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of convert.py; `asked` is what was said of the file. A wrong one exits with
    code 2. doc: what --help begins with."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument(
        "file",
        type=text,
        metavar="FILE",
        help="a file of ours or of others, a run's folder, a published name or an address",
    )
    add_options(parser, OPTIONS)
    args = parse(parser, None, argv)
    args.gpus = []  # for `launch`: one process whatever the machine has
    try:
        check(args)
    except (ValueError, UsageError) as error:
        parser.error(str(error))
    return args


def check(args: Namespace) -> None:
    """Rules between options; `asked` is added. Errors: ValueError, UsageError."""
    rules = Rules(args, OPTIONS)
    rules.needs("out", "to", why="the format to write")
    rules.belongs("overwrite", "--to", args.to is not None)
    program = args.to in ("pt2", "onnx")
    for name in ("program", "steps", "guide", "guidance", "domain"):
        rules.belongs(name, "--to pt2 or onnx", program)
    rules.needs("guide", "guidance", why="its weight")
    rules.needs("guidance", "guide", why="the network that guides")
    config: dict[str, Any] = {}
    if args.config is not None:
        found = read_object(expanded(args.config))
        if found is None:
            raise UsageError(f"--config {args.config}: no JSON object with arguments can be read")
        config = found
    if args.res is not None and any(r < 1 for r in args.res):
        raise UsageError(f"--res {' '.join(map(str, args.res))}: resolutions are above 0")
    args.asked = Asked(
        args.task,
        tuple(args.res) if args.res else None,
        config,
        args.weights == "ema",
        args.normalise,
    )
