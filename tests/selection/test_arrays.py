"""What callers of the selection methods may hand over, and what they get back."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from selection import (
    Picker,
    UnknownKeyword,
    draw_spread,
    jointly_sample_batch,
    random_baseline,
    select,
    selection_logits,
)

METHODS = (jointly_sample_batch, random_baseline)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def call(method, learner, ref, **keywords):
    """Both methods as one calls any: the losses first, everything else by name."""
    both = (learner, ref) if method is jointly_sample_batch else (learner,)
    return method(*both, **{"generator": seeded(), "N": 4, **keywords})


@pytest.fixture
def losses() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(40, dtype=torch.float64, generator=generator) for _ in range(2))


def test_both_take_the_same_keywords():
    def keywords(method) -> set[str]:
        return set(inspect.signature(method).parameters) - {"learner_loss", "unknown"}

    assert keywords(jointly_sample_batch) == keywords(random_baseline)


@pytest.mark.parametrize("method", METHODS)
def test_every_keyword_of_the_original_is_accepted(method, losses):
    rows = call(
        method, *losses, filter_ratio=0.5, learnability=False, inverted=True,
        numeric_stability_trick=True, device="cpu",
    )  # fmt: skip
    assert rows.shape == (20,) and rows.device.type == "cpu"
    assert len(call(method, *losses, selection_size=7)) == 7
    assert random_baseline(losses[0], ref_loss=losses[1]).shape == (8,)


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_keyword_is_one_line_that_says_what_was_meant(method, losses):
    for error in (ValueError, TypeError, UnknownKeyword):
        with pytest.raises(error) as caught:
            call(method, *losses, temprature=2, flavour="sweet")
    said = str(caught.value)
    assert "\n" not in said and method.__name__ in said and "temprature, flavour" in said
    assert "did you mean temperature?" in said and "filter_ratio" in said


def test_an_option_that_a_method_lacks_is_the_same_line():
    with pytest.raises(ValueError, match="random_baseline has no keyword temprature"):
        select("random", torch.zeros(10), options={"temprature": 1})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 1, 1, 1)])
@pytest.mark.parametrize("kind", ["tensor", "float64", "float32", "float16", ">f4", "readonly"])
def test_shapes_and_arrays_draw_the_same_rows(method, shape, kind, losses):
    expected = call(method, *losses).tolist()
    if kind == "tensor":
        given = [x.reshape(shape) for x in losses]
    else:
        given = [x.numpy().reshape(shape) for x in losses]
        if kind == "readonly":
            given = [x[::-1].copy()[::-1] for x in given]  # strided backwards
            for x in given:
                x.flags.writeable = False
        else:
            given = [x.astype(kind) for x in given]
            expected = call(method, *(torch.from_numpy(x.astype(float)) for x in given))
            expected = expected.flatten().tolist()
    before = [x.copy() if isinstance(x, np.ndarray) else x.clone() for x in given]
    rows = call(method, *given)
    assert isinstance(rows, torch.Tensor if kind == "tensor" else np.ndarray)
    assert rows.dtype in (torch.int64, np.dtype("int64")) and rows.shape == (8,)
    assert rows.tolist() == expected
    assert all((x == y).all() for x, y in zip(given, before, strict=True))


def test_one_of_each_and_shapes_that_differ(losses):
    learner, ref = losses
    rows = call(jointly_sample_batch, learner.numpy()[:, None], ref.reshape(40, 1, 1, 1))
    assert isinstance(rows, np.ndarray)
    assert rows.tolist() == call(jointly_sample_batch, learner, ref).tolist()
    assert torch.isfinite(draw_spread(learner.numpy(), ref.numpy(), 4).entropy)
    assert torch.isneginf(selection_logits(learner.numpy(), ref.numpy(), rows)[rows]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(learner=np.zeros(40, int)), "floating-point tensor or array, got int64"),
        (dict(learner=np.array(["a"] * 40)), "floating-point tensor or array, got <U1"),
        (dict(learner=[0.0] * 40), "floating-point tensor, got list"),
        (dict(learner=None), "floating-point tensor, got NoneType"),
        (dict(learner=np.zeros((40, 2))), r"\[B\].*\[40, 2\]"),
        (dict(generator=np.random.default_rng(0)), "must be a torch.Generator, got Generator"),
        (dict(device="nowhere"), "device 'nowhere' is none that rows can be on"),
        (dict(selection_size=41), "selection_size 41 is not a number of rows from 1 to 40"),
        (dict(selection_size=0), "selection_size 0"),
        (dict(filter_ratio=100), "selection_size=100"),
    ],
)
def test_what_they_cannot_take_is_a_sentence(method, changed, message, losses):
    given = dict(zip(("learner", "ref"), losses, strict=True)) | changed
    with pytest.raises(ValueError, match=message):
        call(method, given.pop("learner"), given.pop("ref"), **given)


def test_the_baseline_is_given_no_reference_by_position(losses):
    with pytest.raises(ValueError, match="second argument of random_baseline is filter_ratio"):
        random_baseline(*losses)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("first_chunk", ["uniform", "scored"])
def test_the_originals_easy_reference_draw(normalise, first_chunk, losses):
    """Chunk by chunk the smallest log E - logit, with the logits that its source comes to.

    `selection_logits` is held to the original's own probabilities by the golden vectors `jest`.
    """
    T = 0.2 if normalise else 5.0
    kind = dict(learnability=False, easy_reference="source", normalise=normalise, temperature=T)
    rows = jointly_sample_batch(
        *losses, 4, 0.5, first_chunk=first_chunk, generator=seeded(), **kind
    )
    u = torch.rand((4, 1, 40), dtype=torch.float64, generator=seeded())
    expected: list[int] = []
    for key in u.neg().log1p().neg().log()[:, 0]:
        logits = selection_logits(*losses, expected, **kind)
        if not expected:  # n = 0: all logits are alike
            assert (logits == logits[0]).all()
        expected += (key - logits).argsort()[:5].tolist()
    assert rows.tolist() == expected
    kind["easy_reference"] = "intended"
    intended = jointly_sample_batch(
        *losses, 4, 0.5, first_chunk=first_chunk, generator=seeded(), **kind
    )
    assert rows.tolist() != intended.tolist()
    picker = Picker(
        num_chunks=4, filter_ratio=0.5, scale="raw", learnability=False, normalise=normalise,
        easy_reference="source", first_chunk=first_chunk, temperature=T,
    )  # fmt: skip
    assert picker.pick(40, *losses, random=seeded()).rows.tolist() == expected


def test_the_originals_easy_reference_draw_passes_over_bad_rows(losses):
    learner, ref = losses
    ref = ref.clone()
    ref[:10] = torch.nan
    for first_chunk in ("uniform", "scored"):
        rows = jointly_sample_batch(
            learner, ref, 4, 0.5, learnability=False, easy_reference="source",
            first_chunk=first_chunk, generator=seeded(),
        )  # fmt: skip
        assert rows.min() >= 10


def test_the_originals_easy_reference_draw_is_of_row_losses_without_the_learner(losses):
    with pytest.raises(ValueError, match="needs learnability=False"):
        jointly_sample_batch(*losses, easy_reference="source")
    with pytest.raises(ValueError, match="'sauce' is not one of: intended, source"):
        jointly_sample_batch(*losses, easy_reference="sauce")


def test_temperatures_that_leave_the_range_are_refused(losses):
    learner, ref = losses
    for temperature in (1e-31, 1e-38, 1e-45, 1e-320):
        for function in (jointly_sample_batch, draw_spread, selection_logits):
            with pytest.raises(ValueError, match=f"{temperature}.* below 1e-30"):
                function(learner, ref, temperature=temperature)
    rows = jointly_sample_batch(learner, ref, 4, temperature=1e-30, first_chunk="scored")
    best = (learner - ref).topk(8).indices
    assert rows.tolist() == best.tolist()
