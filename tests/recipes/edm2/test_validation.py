"""What train_edm2.py shows and says of its samples and its loss."""

import pytest
import torch

from diffusion.edm2_loss import per_pixel_loss
from recipes.edm2.validation import captions, verdict


def test_a_sheet_has_the_class_above_each_sample():
    words = captions(5, 3, ["cat", "owl"], None)
    assert list(words.each) == ["cat", "owl", "class 2", "cat", "owl"]
    assert "guidance" not in words.title and "guidance 1.5" in captions(5, 0, [], 1.5).title
    assert list(captions(5, 0, ["one"], None).each) == []


def test_the_verdict_has_the_first_loss_and_the_last():
    said = verdict([4, 8, 16], [0.948, 0.8, 0.691])
    assert said.startswith("loss 0.948 at step 4, 0.691 at step 16; about 1 is")
    assert verdict([4], [0.948]).startswith("loss 0.948 at step 4; about 1 is")
    assert verdict([], []) == "no loss has been logged"


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_1_is_the_loss_of_the_noisy_image_scaled(sigma):
    """Of data of mean square sigma_data^2; the network's F = 0 in D = c_skip x + c_out F."""

    def scaled(x, sigma, labels, return_logvar):
        return 0.5**2 / (sigma**2 + 0.5**2) * x, torch.zeros_like(sigma)

    g = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1, 1, 500, 500, generator=g) for _ in range(2))
    loss = per_pixel_loss(scaled, 0.5 * x, torch.tensor([sigma]), noise, sigma_data=0.5)
    assert float(loss.mean()) == pytest.approx(1, abs=0.02)
