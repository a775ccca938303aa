"""The generator's side of a joint run: before every --joint epochs it is trained by IMLE."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from data.pyramids import Pyramid
from data.sources import Source
from data.views.generated import Sampler
from generators.base import WrongKind, in_words
from generators.door import open_generator
from generators.imle import ConditionalIMLE, codes_of
from imle import CAMNet, CodeGenerator, Corruption
from recipes.imle import parts
from recipes.imle.step import imle_gradients
from recipes.isicle.options import idle_options, imle_options
from recipes.metrics.during import During
from runtime.run import Run
from storage.errors import UsageError


class Joint:
    """Network, optimizer, EMA, codes and their loader, with the state that a run restores.

    Phase by phase: codes are searched for a subsample, then --imle_steps steps train on them, as in
    TrainGeneratorWandB.py. Views are drawn from the EMA.

    pictures: those of the encoder. file: the network as it is at first, which says what the sampler
    is like; views are drawn after a phase.
    Errors: UsageError, CheckpointError.
    """

    def __init__(self, args: Namespace, run: Run, pictures: Source) -> None:
        trained = opened(args.net, args.imle, run.say) if args.net else None
        try:
            own = imle_options(args, trained.snapshot.config["net"] if trained else None)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if own.bs % run.world_size:
            raise UsageError(f"--imle --bs {own.bs}: not for {run.world_size} processes")
        if trained is None:
            net = parts.network(own, run.device)
            assert isinstance(net, CAMNet), "--unconditional is refused"
            corruption, noise = parts.corruption(own)
            z_gen, mixing = parts.codes(own, net)
        else:
            net = trained.net.train().requires_grad_(True)
            net = net.to(run.device).to(memory_format=parts.layout(own))
            noise, mixing = trained.snapshot.config["corruption"], codes_of(trained.snapshot)
            corruption = Corruption(**noise, seed=own.seed)
            z_gen = CodeGenerator(net.code_sizes, seed=own.seed, **mixing)
        self.own, self.phase, self.net = own, own.num_iteration, net
        self.loss_fn = parts.loss(own, run.device)
        self.optimizer = parts.optimizer(own, net)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = parts.average(own, net)
        pyramid = Pyramid(pictures, net.res, crop="center", cache="memory")
        self.loader = parts.loader(own, run, pyramid, net, corruption, z_gen, self.loss_fn)
        self.pictures = pictures
        self.config = {
            "net": net.config, "codes": mixing, "corruption": noise, "crop": "center"
        }  # fmt: skip
        self._forward = run.compile(net)
        self.file = None if trained is None else str(trained.file)  # found once, and told once
        if trained is None:  # so that what views are drawn from is opened as any other
            path = run.snapshot("generator-initial", net, "camnet", self.config)
            self.file = str(path)

    def objects(self) -> dict[str, Any]:
        """What run.restore takes over."""
        return {
            "generator": self.net,
            "generator_optimizer": self.optimizer,
            "generator_ema": self.ema,
            "generator_loader": self.loader,
        }

    def measuring(self, args: Namespace, run: Run, held: Source | None) -> During:
        """Figures of the generator while it trains, every so many of its own steps, from pictures
        held out where there are some. Errors, before training: UsageError."""
        inputs = self.pictures if held is None else held
        return During(args, run, self.pictures, res=self.net.res[-1], crop="center", inputs=inputs)

    def begin(self, run: Run, sampler: Sampler, steps: int) -> None:
        """After run.restore. steps: of the generator, which its schedule is over."""
        self._factor = parts.lr_factor(self.own, steps)
        self._batches = run.spent.waits(self.loader.forever())
        sampler.update(self.ema.module)

    def phase_is_over(self, number: int) -> bool:
        """Whether step `number` of the generator is the last for now."""
        return (number + 1) % self.phase == 0

    def hand_over(self, run: Run, sampler: Sampler) -> None:
        """Draw views from what has been learnt."""
        sampler.update(self.ema.module)
        run.snapshot("generator-latest", self.ema.module, "camnet", self.config)

    def step(self, run: Run, number: int) -> None:
        """One step of IMLE, the generator's step `number`, on the whole batch of the loader."""
        own, batch = self.own, next(self._batches)
        if number % self.phase == 0:  # the loader has just searched
            found = self.loader.last_search
            run.log(**{f"imle/{name}": value for name, value in found.figures().items()})
            run.log(**{"time/search_s": found.seconds})
            run.spent.add("data", -found.seconds)
        rate = self._factor(number)
        for group, peak in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = peak * rate
        batch_loss = imle_gradients(
            run, self._forward, self.loss_fn, batch, self.loader.last_ids, mini_bs=own.mini_bs
        )
        if run.step(self.optimizer, clip=own.grad_clip or None):
            self.ema.update(self.net, (number + 1) * own.bs, own.bs)
        run.log(**{"imle/batch loss": batch_loss, "imle/learning rate": self.rates[0] * rate})


def opened(net: str, imle: str, say: Callable[[str], None]) -> ConditionalIMLE:
    """The CAM-Net to go on with; `say` is told which options of --imle are as the network has them.

    Errors: UsageError, CheckpointError.
    """
    kinds = [ConditionalIMLE.kind]
    try:
        trained = open_generator(
            net, kinds=kinds, script="TrainGeneratorWandB", say=say, option="--net"
        )
    except WrongKind as error:
        raise UsageError(f"--joint trains a CAM-Net, {net} is {in_words(error.kind)}") from None
    assert isinstance(trained, ConditionalIMLE) and trained.file
    if idle := idle_options(imle):
        say(f"--imle: {', '.join(idle)} have no influence, they are as in {trained.file.name}")
    return trained
