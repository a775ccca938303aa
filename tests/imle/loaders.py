"""A loader over toy images, and what tests of it do with its batches."""

import io

import torch

from imle.augment import KeyedFlip
from imle.codes import CodeGenerator
from imle.kkm import KorKMinusOne
from imle.loader import CIMLEDataLoader
from runtime.counter_rng import mix, uniform
from tests.imle.toys import ToyCascade, ToyImages, mse


class KeyedNoise:
    """A corruption keyed by loop and image, as the real one is."""

    def keyed(self, x, loop, image_ids):
        noise = uniform(mix(3, loop, image_ids), x[0].numel()).view_as(x)
        return 0.5 * x + 0.5 * noise


def make(n=9, cls=CIMLEDataLoader, **change):
    """A loader over n toy pyramids, our own objects throughout."""
    levels = change.pop("levels", 2)
    model = change.pop("model", None) or ToyCascade(levels)
    kwargs = dict(
        dataset=ToyImages(n, levels),
        kkm=KorKMinusOne(range(n), shuffle=True, seed=1),
        model=model,
        corruptor=KeyedNoise(),
        z_gen=CodeGenerator(model.code_sizes, seed=2) if hasattr(model, "code_sizes") else None,
        loss_fn=mse,
        num_samples=4,
        sample_parallelism=3,
        code_bs=2,
        subsample_size=6,
        num_iteration=5,
        batch_size=2,
        seed=5,
        augment=KeyedFlip(4),
    )
    return cls(**(kwargs | change))


def take(loader, loops=1, mark=lambda: None):
    """Everything yielded in so many iterations, with the image ids."""
    out = []
    for _ in range(loops):
        for cx, codes, ys in loader:
            out.append((list(loader.last_ids), cx, codes, ys))
            mark()
    return out


def same(a, b, exact=True):
    assert [x[0] for x in a] == [x[0] for x in b]
    close = {} if not exact else dict(rtol=0, atol=0)
    for (_, *left), (_, *right) in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, **close)
    return True


def ids_of(batches):
    return [i for b in batches for i in b[0]]


def save(loader):
    """A state as a checkpoint keeps it: tensors and plain values only."""
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)
