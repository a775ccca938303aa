"""CAM-Nets of the code release: every task, told by its weights, drawn with through the door."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.views.generated import to_uint8
from generators.door import open_generator
from generators.foreign.contents import Asked
from generators.foreign.formats import identify, import_network
from imle.color import rgb_to_lab
from recipes.initial import read_weights
from storage.errors import CheckpointError, UsageError
from storage.foreign.objects import read_objects
from tests.golden.support import Vectors
from tests.imle import camnet_oracle as oracle
from tests.imle.test_original import ORIGINALS


def original(tmp_path: Path, name: str) -> tuple[dict[str, torch.Tensor], Vectors]:
    """Weights of an original, in which what training leaves alone is as it was at the start."""
    cfg, size, before = ORIGINALS[name]
    oracle.write_original(tmp_path / f"original_{name}.npz", cfg, size, before_up=before)
    vectors = Vectors(tmp_path / f"original_{name}.npz")
    weights = vectors.tree("sd")
    if name == "decompression":
        last = max(key.split("_")[1] for key in weights)
        for key in weights:
            if key.startswith(f"level_{last}_up.") and key.endswith("bias"):
                weights[key].zero_()
    return weights, vectors


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["super_resolution", "decompression", "colorization"])
def test_the_task_is_told_by_the_weights(tmp_path, name, legacy):
    weights, vectors = original(tmp_path, name)
    file = tmp_path / "latest_G.pth"
    torch.save(weights, file, _use_new_zipfile_serialization=not legacy)
    side, levels = (32 if name == "colorization" else 16), vectors.json("cfg_json")["upscale"]
    snapshot, found = import_network(file)
    assert (found.format, found.kind, found.provenance["task"]) == ("cam-net", "camnet", name)
    assert any("--task" in note for note in found.notes)
    sides = [side * 2**i for i in range(levels.bit_length())]
    last = sides[-1] if name == "super_resolution" else sides[-2]
    assert snapshot.config["net"]["res"] == [*sides[:-1], last]
    assert torch.equal(
        snapshot.state_dict["levels.0.out_conv.0.weight_v"], weights["level_1_out.0.weight_v"]
    )
    # weights of any task start a training run here: by their names, whatever the task
    assert read_weights(file).kind is None


def test_image_synthesis_by_its_published_inputs(tmp_path):
    weights, _ = original(tmp_path, "image_synthesis")
    torch.save(weights, tmp_path / "G.pth")
    snapshot, found = import_network(tmp_path / "G.pth")
    net = snapshot.config["net"]
    assert found.provenance["task"] == "image_synthesis"
    assert (net["in_nc"], net["code_nc"], net["feedback"]) == (20, 10, "none")
    generator = open_generator(tmp_path / "G.pth")
    with pytest.raises(UsageError, match=r"\['B', 20, 128, 128\]"):
        generator.draw(1, inputs=torch.rand(1, 3, 128, 128))


@pytest.mark.parametrize("name", ["decompression", "colorization"])
def test_networks_of_many_inputs_are_drawn_with_from_one_picture(tmp_path, name):
    weights, _ = original(tmp_path, name)
    torch.save(weights, tmp_path / "G.pth")
    snapshot, _ = import_network(tmp_path / "G.pth", Asked(res=(4, 8, 16, 16)))
    from generators.door import make_generator

    generator = make_generator(snapshot)
    assert (generator.input_size, generator.resolution) == (16, 16)
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    images = generator.draw(2, seed=3, inputs=picture)
    assert images.shape == (4, 3, 16, 16) and not torch.equal(images[0], images[1])
    if name == "colorization":  # colours are free, lightness is the input's
        made = rgb_to_lab(images[2].float()[None] / 255)[:, 0]
        seen = rgb_to_lab(picture[1:])[:, 0]
        inside = (images[2] > 0).all(0) & (images[2] < 255).all(0)
        assert inside.any() and (made - seen).abs()[inside[None]].max() < 0.02
    sampler = generator.view_sampler(16)
    ids = torch.arange(2)
    views = sampler.sample(sampler.corrupt(picture, ids), ids, torch.zeros(2, dtype=torch.int64))
    assert to_uint8(views).shape == (2, 3, 16, 16)


def test_what_is_said_must_fit_the_weights(tmp_path):
    weights, _ = original(tmp_path, "super_resolution")
    torch.save({"model_state_dict": weights, "iteration": 7}, tmp_path / "latest.tar")
    found = identify(tmp_path / "latest.tar", Asked(task="decompression"))
    assert (found.provenance["task"], found.provenance["step"]) == ("decompression", 7)
    for asked, message in (
        (Asked(res=(4, 8)), r"res \[4, 8\]: the weights have 3 levels"),
        (Asked(config={"num_blocks": 9}), "num_blocks|n_blocks 9"),
        (Asked(config={"task": "painting"}), "painting"),
    ):
        with pytest.raises(CheckpointError, match=message):
            identify(tmp_path / "latest.tar", asked)
    weights["level_1_style.sub.transform_999999999.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "many.pth")
    with pytest.raises(CheckpointError, match="blocks"):
        identify(tmp_path / "many.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_stay_in_the_file_until_they_are_made(tmp_path, legacy):
    base = torch.arange(24, dtype=torch.float16).reshape(4, 6)
    value = {"a": base, "b": base.t(), "c": torch.arange(3), "d": torch.zeros(0), "e": base[1, 2]}
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    stored, read = (read_objects(tmp_path / "x.pt", unread=unread) for unread in (True, False))
    for name, tensor in value.items():
        made = stored[name].load()
        assert made.dtype == tensor.dtype and torch.equal(made, tensor), name
        assert torch.equal(read[name], tensor), name
    assert stored["a"].storage is stored["b"].storage
    data = bytearray((tmp_path / "x.pt").read_bytes())
    (tmp_path / "x.pt").write_bytes(data[:-40])
    with pytest.raises(CheckpointError):
        read_objects(tmp_path / "x.pt", unread=True)["a"]
