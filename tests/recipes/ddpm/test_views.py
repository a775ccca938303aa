"""Random views of layout sets: as published for each, unless --xflip is typed."""

import numpy as np
import pytest
from PIL import Image

from data.layouts import ObjectRule
from data.readers import visual_genome
from data.views.layouts import Augment
from recipes.ddpm import parts
from recipes.ddpm.options import get_args
from tests.data.layout_files import make_celeba, make_coco, make_genome


@pytest.fixture(autouse=True)
def few_and_small_pictures(monkeypatch):
    def vocabulary(objects, train, alias, least):
        return names(objects, train, alias, 1)

    names = visual_genome.vocabulary
    monkeypatch.setattr(visual_genome, "vocabulary", vocabulary)
    monkeypatch.setattr(visual_genome, "RULE", ObjectRule(side=5, picture_side=9))


def make_masks(root):
    make_celeba(root)
    (root / "CelebAMaskHQ-mask").mkdir()
    for key in (0, 2001):
        mask = Image.fromarray(np.zeros((512, 512), np.uint8))
        mask.save(root / "CelebAMaskHQ-mask" / f"{key}.png")


MADE = {"coco": make_coco, "vg": make_genome, "celebamask": make_masks}


@pytest.mark.parametrize(
    ("name", "words", "augment", "filter", "said"),
    [
        ("coco", "", Augment(), "bicubic", ""),  # of --xflip, which are those published
        ("coco", "--views published", Augment(), "bicubic", "mirrored and cropped"),
        ("vg", "", None, "bilinear", "none"),
        ("celebamask", "", Augment(crop=False), "area", "mirrored"),
        ("vg", "--xflip", Augment(), "bicubic", ""),
        ("celebamask", "--no-xflip", None, "bicubic", ""),
        ("scenes", "", None, "bicubic", ""),  # its preset has none
        ("scenes", "--views published", Augment(crop=False), "bicubic", "mirrored"),
    ],
)
def test_a_preset_has_the_views_of_its_set(name, words, augment, filter, said, tmp_path):
    if name in MADE:
        MADE[name](tmp_path / name)
    words = [*f"--preset {name}-layout --data_path".split(), str(tmp_path), *words.split()]
    args = get_args(None, words)
    images = parts.data(args)
    assert (images.augment, images.filter) == (augment, filter)
    line = f"random views, as published for {name}: {said}"
    assert (line in parts.said(args, images)) == bool(said)


def test_latents_are_of_mirrored_pictures_where_the_set_has_such(tmp_path):
    for name, doubled in (("coco", True), ("vg", False)):
        MADE[name](tmp_path / name)
        words = f"--preset {name}-layout --latents a.ckpt --data_path".split()
        images = parts.data(get_args(None, [*words, str(tmp_path)]))
        assert images.augment is None and images.xflip is doubled


def test_without_layouts_a_preset_is_what_it_was():
    args = get_args(None, "--preset vg-layout --layout none".split())
    assert (args.views, args.xflip) == ("xflip", True)
