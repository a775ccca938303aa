"""Encoders: pixel ranges, the affine of the VAE latents, and the VAE itself on a tiny one."""

import sys
import types

import pytest
import torch

from diffusion.encoders import EncoderError, RGBEncoder, StabilityVAEEncoder, make_encoder


def test_rgb_round_trip_is_exact():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    rgb = RGBEncoder()
    latents = rgb.encode_latents(rgb.encode_pixels(images))
    assert latents.dtype == torch.float32
    assert latents.min() == -1 and latents.max() == 1
    assert torch.equal(rgb.decode(latents), images)
    assert rgb.latent_channels(3) == 3


def test_rgb_decode_cuts_off_and_clips():
    values = torch.tensor([-9.0, -1.0, -0.0001, 0.0, 0.00783, 0.00785, 1.0, 9.0]).reshape(
        1, 8, 1, 1
    )
    assert RGBEncoder().decode(values).flatten().tolist() == [0, 0, 127, 128, 128, 129, 255, 255]


@pytest.mark.parametrize(
    "encoder", [RGBEncoder(), StabilityVAEEncoder("tiny", raw_std=(1, 2, 3, 4))]
)
def test_config_builds_the_same_encoder(encoder):
    again = make_encoder(encoder.config)
    assert type(again) is type(encoder) and again.config == encoder.config
    if isinstance(encoder, StabilityVAEEncoder):
        assert torch.equal(again.scale, encoder.scale)
        moved = make_encoder(encoder.config, vae="/elsewhere")
        assert moved.vae == "/elsewhere" and torch.equal(moved.scale, encoder.scale)


def test_a_name_alone_is_enough():
    assert make_encoder({"name": "stability-vae"}).config == StabilityVAEEncoder().config


@pytest.mark.parametrize("config", [{}, {"name": "jpeg"}, {"name": "rgb", "x": 1},
                                    {"name": "stability-vae", "x": 1}])  # fmt: skip
def test_unknown_encoders(config):
    with pytest.raises(ValueError, match="unknown; there are: rgb, stability-vae"):
        make_encoder(config)


def test_images_must_be_bytes():
    with pytest.raises(ValueError, match="uint8"):
        RGBEncoder().encode_latents(torch.zeros(1, 3, 4, 4))


# --------------------------------------------------------------------------------- Stability's VAE


def test_latents_of_the_training_data_get_mean_0_and_std_half():
    vae = StabilityVAEEncoder()
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(v).view(1, 4, 1, 1) for v in (vae.raw_mean, vae.raw_std))
    # means spread over 60 % of the std, posteriors of the rest: together raw_std
    raw_means = mean + 0.6 * std * torch.randn(64, 4, 32, 32, generator=generator)
    raw = torch.cat([raw_means, 0.8 * std.expand(64, 4, 32, 32)], dim=1)
    eps = torch.randn(64, 4, 32, 32, generator=generator)
    latents = vae.encode_latents(raw, eps)
    # 65536 numbers a channel: standard errors 0.002 and 0.0014
    assert latents.mean((0, 2, 3)).abs().max() < 0.01
    assert (latents.std((0, 2, 3)) - 0.5).abs().max() < 0.01
    assert torch.allclose(vae.raw_of(vae.standardise(raw_means)), raw_means, atol=1e-4)


def test_rows_use_their_own_noise():
    vae = StabilityVAEEncoder()
    raw, eps = torch.rand(3, 8, 2, 2), torch.randn(3, 4, 2, 2)
    whole = vae.encode_latents(raw, eps)
    assert torch.equal(vae.encode_latents(raw[1:2], eps[1:2]), whole[1:2])


def test_wrong_shapes():
    vae = StabilityVAEEncoder()
    with pytest.raises(ValueError, match="8 channels .* not 3; .*dataset_tool"):
        vae.encode_latents(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="noise None"):
        vae.encode_latents(torch.zeros(1, 8, 2, 2))
    with pytest.raises(ValueError, match=r"noise \[1, 8, 2, 2\]"):
        vae.encode_latents(torch.zeros(1, 8, 2, 2), torch.zeros(1, 8, 2, 2))
    with pytest.raises(ValueError, match="4 channels"):
        StabilityVAEEncoder(raw_mean=(1, 2, 3))
    with pytest.raises(ValueError, match="positive"):
        StabilityVAEEncoder(raw_std=(1, 2, 3, 0))


class Stub(torch.nn.Module):
    """What is used of diffusers' AutoencoderKL: 8x smaller, mean = pixels, std = 0.1."""

    loaded: list = []

    @classmethod
    def from_pretrained(cls, name, *, use_safetensors):
        assert use_safetensors is True
        if name == "missing":
            raise OSError("\nmissing is not a local folder\nand much more text")
        cls.loaded.append(name)
        model = cls()
        model.batches = []
        return model

    def encode(self, x):
        assert 0 <= x.min() and x.max() <= 1
        self.batches.append(len(x))
        small = torch.nn.functional.avg_pool2d(x, 8)
        mean = torch.cat([small, small[:, :1]], dim=1)
        return types.SimpleNamespace(
            latent_dist=types.SimpleNamespace(mean=mean, std=torch.full_like(mean, 0.1))
        )

    def decode(self, z):
        big = torch.nn.functional.interpolate(z[:, :3], scale_factor=8)
        return types.SimpleNamespace(sample=big)


@pytest.fixture
def stub(monkeypatch):
    module = types.ModuleType("diffusers")
    module.AutoencoderKL = Stub
    monkeypatch.setitem(sys.modules, "diffusers", module)
    monkeypatch.setattr(Stub, "loaded", [])
    return Stub


def test_vae_is_loaded_once_and_only_when_needed(stub):
    vae = StabilityVAEEncoder("folder", batch=4)
    vae.encode_latents(torch.zeros(1, 8, 2, 2), torch.zeros(1, 4, 2, 2))
    assert stub.loaded == []
    images = torch.randint(0, 256, (10, 3, 1, 1)).expand(-1, -1, 16, 16).to(torch.uint8)
    raw = vae.encode_pixels(images)
    assert raw.shape == (10, 8, 2, 2) and vae._model.batches == [4, 4, 2]
    assert torch.allclose(raw[:, 4:], torch.full((10, 4, 2, 2), 0.1))
    latents = vae.encode_latents(raw, torch.zeros(10, 4, 2, 2))
    assert (vae.decode(latents).int() - images.int()).abs().max() <= 1  # fractions are cut off
    assert stub.loaded == ["folder"]


def test_decode_clamps(stub):
    vae = StabilityVAEEncoder("folder")
    raw = torch.tensor([-3.0, 0.5, 3.0, 0.0]).view(1, 4, 1, 1)
    image = vae.decode(vae.standardise(raw))
    assert image[0, :, 0, 0].tolist() == [0, 127, 255]


def test_missing_weights_are_one_line(stub):
    with pytest.raises(EncoderError, match="'missing' .missing is not a local folder.; give") as e:
        StabilityVAEEncoder("missing").decode(torch.zeros(1, 4, 1, 1))
    assert "\n" not in str(e.value) and e.value.exit_code == 2


def test_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)  # import raises ImportError
    with pytest.raises(EncoderError, match="pip install diffusers"):
        StabilityVAEEncoder().decode(torch.zeros(1, 4, 1, 1))


def test_the_real_class_on_a_tiny_random_vae(tmp_path):
    """Skipped where diffusers is not installed (it is no requirement)."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path, safe_serialization=True)
    vae = StabilityVAEEncoder(str(tmp_path), batch=2)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    raw = vae.encode_pixels(images)
    assert raw.shape == (3, 8, 4, 4) and raw.dtype == torch.float32
    with torch.no_grad():
        posterior = model.encode(images.float() / 255).latent_dist
        expected = torch.cat([posterior.mean, posterior.logvar.mul(0.5).exp()], dim=1)
        assert torch.allclose(raw, expected, atol=1e-5)
        latents = vae.encode_latents(raw, torch.zeros(3, 4, 4, 4))
        decoded = (model.decode(posterior.mean).sample.clamp(0, 1) * 255).to(torch.uint8)
    found = vae.decode(latents)
    assert found.shape == images.shape
    assert (found.int() - decoded.int()).abs().max() <= 1  # fractions cut off beside an integer
    with pytest.raises(EncoderError, match="cannot load the VAE"):
        StabilityVAEEncoder(str(tmp_path / "no")).decode(latents)
