"""A trained network with what comes before and after it: tensors in, tensors out.

What a `Program` computes needs nothing of this toolkit but its weights: no options, no files, no
random numbers. Those are inputs, so that whoever calls it draws them as it likes, and every input
has the batch as its first dimension, of any size.

| kind | program | inputs -> output |
|---|---|---|
| camnet | images | pictures uint8, normal codes, what is taken away -> uint8 |
| imle-unconditional | images | normal codes -> uint8 |
| edm2 | images | noise, classes -> uint8, by Heun's method; behind a VAE its latents |
| edm2 | denoiser | x, sigma, classes -> denoised x |
| edm2-toy | images | noise [N, 2] -> points [N, 2], by Heun's method |
| edm2-toy | denoiser | x [N, 2], sigma -> denoised x |
| ddpm | images | noise, classes, what else it is given -> uint8, by DDIM |
| ddpm | denoiser | x, step, classes, what else it is given -> denoised x |
| omnigan | translate | pictures uint8 -> uint8 of another domain |
| omnigan | depth, height, segmentation, water | pictures uint8 -> what a decoder sees in them |
| simclr | features | pictures uint8 -> h |
| simclr | projection | pictures uint8 -> z |
"""

from __future__ import annotations

from argparse import Namespace

from generators.base import Setup, in_words
from generators.ddpm import DDPM
from generators.door import make_generator, open_generator
from generators.edm2 import EDM2
from generators.imle import ConditionalIMLE, UnconditionalIMLE
from generators.omnigan import Omnigan
from generators.toy import Toy
from recipes.convert import (
    programs_ddpm,
    programs_edm2,
    programs_imle,
    programs_omnigan,
    programs_simclr,
)
from recipes.convert.program import PROGRAMS, Program
from recipes.convert.targets import Given, source_of
from recipes.simclr.encoder import Encoder
from storage.errors import UsageError


def make_program(given: Given, args: Namespace) -> Program:
    """The program that --program asks for (default: the first of the kind).

    args: of convert.py: program, steps, guide, guidance, domain. Errors: UsageError for a program
    that the kind has not, or an option without effect on it; CheckpointError for weights that do
    not fit.
    """
    snapshot = given.snapshot
    words = PROGRAMS.get(snapshot.kind, ())
    if not words:
        raise UsageError(
            f"{in_words(snapshot.kind)} has no program yet; those that have one are of the kinds "
            f"{', '.join(PROGRAMS)}"
        )
    word = args.program or words[0]
    if word not in words:
        raise UsageError(
            f"--program {word} is none of {in_words(snapshot.kind)}, which has: {', '.join(words)}"
        )
    diffusion = snapshot.kind in ("edm2", "edm2-toy")
    sampled = (diffusion or snapshot.kind == "ddpm") and word == "images"
    if args.steps is not None and not sampled:
        raise UsageError(f"--steps {args.steps} is of --program images of EDM2 and DDPM")
    if args.guide is not None and not diffusion:
        raise UsageError(f"--guide {args.guide}: {in_words(snapshot.kind)} is not guided")
    if args.domain is not None and word != "translate":
        raise UsageError(f"--domain {args.domain} is of --program translate of omnigan")

    if snapshot.kind == "simclr":
        made = programs_simclr.encoder(Encoder.of(snapshot), projection=word == "projection")
    else:
        generator = make_generator(snapshot, Setup(precision="fp32"), given.file)
        if isinstance(generator, ConditionalIMLE):
            made = programs_imle.conditional(generator)
        elif isinstance(generator, UnconditionalIMLE):
            made = programs_imle.unconditional(generator)
        elif isinstance(generator, DDPM):
            made = programs_ddpm.program(generator, word, args.steps or programs_ddpm.STEPS)
        elif isinstance(generator, Omnigan):
            made = programs_omnigan.program(generator, word, args.domain or "f")
        else:
            assert isinstance(generator, EDM2 | Toy)
            guide = None
            if args.guide is not None:
                found = open_generator(
                    args.guide, kinds=[snapshot.kind], option="--guide", precision="fp32"
                )
                assert isinstance(found, EDM2 | Toy)
                guide = found
            weight = 1.0 if args.guidance is None else args.guidance
            made = programs_edm2.program(generator, word, args.steps or 32, guide, weight)
    about = {"kind": snapshot.kind, "program": word, **made.about, "source": source_of(given)}
    return made._replace(module=made.module.eval().requires_grad_(False), about=about)
