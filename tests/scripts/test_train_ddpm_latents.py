"""train_ddpm.py --latents: a small random autoencoder, in the form of latent diffusion's files."""

import numpy as np
import pytest
import torch

from data.latents import NOTE, LatentImages
from generators.autoencoder import COPY, encoder_of
from generators.door import open_generator
from models.ddpm.autoencoder import Autoencoder
from recipes.ddpm import parts
from recipes.ddpm.options import get_args
from storage.errors import CheckpointError, DataError, UsageError
from storage.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.scripts.support import load, metrics

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = (
    "--preset smoke --res 16 --bs 8 --duration 32 --snapshot_every 100 --sample_images 0 "
    "--save_every 2 --log_every 1 --latents_cache memory"
)


def autoencoder(file, **more):
    """A checkpoint as Lightning writes it, which torch.save pickled: with the UNet's prefix."""
    torch.manual_seed(3)
    net = Autoencoder(channels=8, channel_mult=(1, 2), num_res_blocks=1, z_channels=4,
                      embed_dim=4, **more)  # fmt: skip
    state = {f"first_stage_model.{k}": v for k, v in net.state_dict().items()}
    state["first_stage_model.loss.logvar"] = torch.zeros(())
    torch.save({"state_dict": state, "global_step": 3}, file)
    return file


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    return autoencoder(tmp_path_factory.mktemp("kl") / "model.ckpt")


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """Latents of a few pictures only."""
    from data.scenes import source

    monkeypatch.setattr(source, "COUNTS", {"train": 24, "val": 8})


def train(run_dir, *words):
    load("train_ddpm").main(get_args(None, [*SHORT.split(), "--run-dir", str(run_dir), *words]))


LAYOUT = pytest.param("--no-cond --layout boxes --max_objects 3 --xflip", marks=pytest.mark.slow)


@pytest.mark.parametrize("more", ["", LAYOUT])
def test_latents_train_resume_and_draw(more, kl, tmp_path):
    words = ["--latents", str(kl), *more.split()]
    train(tmp_path / "whole", *words)
    train(tmp_path / "broken", *words, "--duration", "16")
    for file in (tmp_path / "broken" / "snapshots").iterdir():
        file.unlink()
    train(tmp_path / "broken", *words)
    ends = [harness.final_state(tmp_path / name) for name in ("whole", "broken")]
    assert harness.differences(*ends) == []
    assert metrics(tmp_path / "whole", "loss/mse").keys() == {1, 2, 3, 4}
    (file,) = (tmp_path / "whole" / "snapshots").iterdir()
    config = load_snapshot(file).config
    assert config["net"]["in_channels"] == 4 and config["resolution"] == 8
    assert config["encoder"]["scale"] > 0 and config["clip"] == "none"
    kept = kl.read_bytes()
    kl.unlink()  # the run has a copy
    try:
        net = open_generator(file, say=lambda line: None)
        drawn = net.draw(2)
    finally:
        kl.write_bytes(kept)
    assert net.resolution == 16 and drawn.shape == (2, 3, 16, 16) and drawn.float().std() > 0
    (tmp_path / "whole" / COPY).unlink()
    other = autoencoder(tmp_path / "other.ckpt", n_embed=7)
    with pytest.raises(CheckpointError, match="not those that were trained on"):
        open_generator(file, vae=str(other), say=lambda line: None).draw(1)


def test_pictures_of_a_snapshot_are_decoded_and_held_out_ones_encoded(kl, tmp_path):
    train(
        tmp_path, "--latents", str(kl), "--duration", "8", "--snapshot_every", "1",
        "--sample_images", "2", "--sample_steps", "2", "--val_images", "3", "--latent_scale", "2",
        "--latents_cache", "disk", "--data_path", str(tmp_path / "home"),
    )  # fmt: skip
    (kept,) = (tmp_path / "home" / "latents").glob("scenes_16_*")
    assert np.load(kept / "00000.npy").shape == (24, 8, 8, 8)
    (file,) = (tmp_path / "snapshots").iterdir()
    assert load_snapshot(file).config["encoder"]["scale"] == 2
    found = {p.name.split("-")[0] for p in (tmp_path / "samples").iterdir()}
    assert found == {"restore", "sampling", "samples"}
    assert set(metrics(tmp_path, "val/mse")) == {1}


def test_stored_latents_are_those_of_the_encoder_and_encoded_once(kl, tmp_path):
    args = get_args(None, [*SHORT.split(), "--no-cond", "--layout", "boxes", "--xflip",
                           "--latents", str(kl)])  # fmt: skip
    images = parts.data(args)
    encoder, model, sha = encoder_of(str(kl), None)
    asked = []

    def encode(pictures):
        asked.append(len(pictures))
        return encoder.encode_pixels(pictures)

    def opened(digest=sha):
        return LatentImages(images, encode, shape=(8, 8, 8), digest=digest, folder=tmp_path)

    first = opened()
    n = len(images.source)
    assert sum(asked) == len(first) == len(images) == 2 * n
    again = opened()
    assert sum(asked) == 2 * n
    for i in (1, n + 1):
        assert torch.equal(first[i].image, again[i].image)
        torch.testing.assert_close(
            again[i].image, encoder.encode_pixels(images[i].image[None])[0], rtol=1e-4, atol=1e-5
        )
        assert torch.equal(again[i].boxes, images[i].boxes)
    x, w = images[1].boxes[:, 0], images[1].boxes[:, 2]
    torch.testing.assert_close(images[n + 1].boxes[:, 0], 1 - x - w)
    # An interrupted build goes on; another autoencoder is another folder; damage is said.
    (again.folder / NOTE).unlink()
    opened()
    assert sum(asked) == 2 * n
    assert opened("other").folder != again.folder and sum(asked) == 4 * n
    scale = again.unit_scale(4, True)
    raw = torch.from_numpy(np.stack([again[i].image for i in range(len(again))]))
    latents = encoder.encode_latents(raw, torch.randn(len(raw), 4, 8, 8)) * scale
    assert latents.std() == pytest.approx(1, abs=0.1)
    (again.folder / "00000.npy").unlink()  # which is mapped
    np.save(again.folder / "00000.npy", np.zeros((1, 8, 8, 8), np.float32))
    with pytest.raises(DataError, match="not the latents"):
        opened()


def test_what_cannot_be_latents_is_one_line(kl, tmp_path, capsys):
    for words, says in (
        (["--latents", "nowhere.ckpt"], "no such file"),
        (["--latents", "kl-f8"], "fetch-models kl-f8"),
        (["--latents", str(kl), "--res", "15"], "15 px"),
    ):
        with pytest.raises(UsageError, match=says):
            train(tmp_path / "run", *words)
    (tmp_path / "empty.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError):
        train(tmp_path / "run", "--latents", str(tmp_path / "empty.ckpt"))
    for words, says in (
        (["--latents", "x", "--gray"], "three channels"),
        (["--latents", "x", "--bits_per_dim", "2"], "--bits_per_dim is of pixels"),
        (["--latents", "x", "--clip", "dynamic"], "no range"),
    ):
        with pytest.raises(SystemExit):
            get_args(None, [*SHORT.split(), *words])
        assert says in capsys.readouterr().err
