"""The noise, of several, at which a row loses least: against a loop over candidates."""

import pytest
import torch

from diffusion.best_of import best_keys
from runtime.counter_rng import mix, uniform


def losses(keys):
    return uniform(keys, 1)[:, 0]


def test_one_is_the_row_itself_and_asks_for_no_loss():
    keys = mix(torch.arange(5))
    assert best_keys(keys, 1, lambda k: pytest.fail("a loss was asked for")) is keys


@pytest.mark.parametrize("reject", [0.0, 0.3, 0.9, 2.0])
def test_of_several_the_nearest_that_is_not_too_near(reject):
    keys = mix(torch.arange(64))
    seen = []

    def noted(candidates):
        seen.append(candidates)
        return losses(candidates)

    found = losses(best_keys(keys, 4, noted, reject=reject))
    assert len(seen) == 4 and torch.equal(seen[0], keys)
    assert len({int(k) for row in seen for k in row}) == 256  # all candidates differ
    for i in range(64):
        every = [float(losses(c[i : i + 1])) for c in seen]
        far = [x for x in every if x >= reject]
        assert float(found[i]) == (min(far) if far else max(every))


def test_a_row_does_not_depend_on_those_beside_it():
    keys = mix(torch.arange(8))
    assert torch.equal(best_keys(keys, 3, losses)[2:4], best_keys(keys[2:4], 3, losses))


def test_what_makes_no_sense():
    for count, reject in ((0, 0.0), (2, -1.0), (2, float("inf"))):
        with pytest.raises(ValueError, match="1 or more"):
            best_keys(torch.arange(2), count, losses, reject=reject)
