"""Every option of generate_views.py changes the views it should, and no others."""

import os

import pytest
import torch
from torch import nn

from data.labelled import LabelledImages
from recipes.views import parts
from recipes.views.options import get_args
from storage.errors import UsageError
from storage.snapshot import save_snapshot
from tests.effects import check_changed, pictures, pixels
from tests.generators.tiny import snapshot
from tests.scripts.support import load

SCRIPT = load("generate_views")
PLAIN = """--gpus cpu --net NET --data FOLDER --num_images 2 --views 2 --crop_size 16
--view_batch 4"""
BASES = {
    "plain": PLAIN,
    "scenes": f"{PLAIN} --data scenes",
    "masked": f"{PLAIN} --mask_frac 0.5",
}
EFFECTS = [
    ("plain", "--net OTHER", "show"),
    ("plain", "--data ELSEWHERE", "names"),
    ("plain", "--data NAMED --data_path HOME", ""),  # the same pictures
    ("scenes", "--split val", "names"),
    ("plain", "--num_images 1", "names"),
    ("plain", "--crop squash", "show"),
    ("plain", "--views 3", "names"),
    ("plain", "--first 5", "names"),
    ("plain", "--crop_size 32", "show"),
    ("plain", "--format lmdb", "names"),
    ("plain", "--view_source upsampled", "show"),
    ("plain", "--code fixed", "show"),
    ("plain", "--temperature 0.1", "show"),
    ("plain", "--truncation 0.1", "show"),
    ("plain", "--grayscale 1", "show"),
    ("plain", "--mask_frac 0.5", "show"),
    ("masked", "--mask_res 2", "show"),
    ("masked", "--fill color", "show"),
    ("plain", "--lr_factor 2", "show"),
    ("plain", "--consistency project", "show"),
    ("plain", "--view_seed 1", "show"),
    ("plain", "--view_precision bf16", "show"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    home = tmp_path_factory.mktemp("options")
    pictures(home / "pictures" / "a", 4)
    pictures(home / "home" / "pictures" / "a", 4)
    pictures(home / "others" / "b", 4, first=9)
    found = {"FOLDER": home / "pictures", "ELSEWHERE": home / "others", "NAMED": "pictures"}
    found["HOME"] = home / "home"
    for seed, name in enumerate(("NET", "OTHER")):
        made = snapshot(seed, corruption={"grayscale": 0, "mask_frac": 0, "mask_res": 4})
        found[name] = save_snapshot(home / f"{name}.safetensors", *made)
    return found


@pytest.fixture(scope="module")
def draw(places, tmp_path_factory):
    """(base, more words) -> which files there are, and what the pictures among them show."""
    home, known = tmp_path_factory.mktemp("drawn"), {}

    def draw(base, words=""):
        if (base, words) not in known:
            out = home / f"out{len(known)}"
            SCRIPT.main(options(places, f"{BASES[base]} {words} --outdir {out}"))
            found = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file()}
            shown = {name: pixels(p) for name, p in found.items() if p.suffix == ".png"}
            known[base, words] = {"names": sorted(found), "show": shown}
        return known[base, words]

    return draw


def options(places, words):
    return get_args(None, [str(places.get(word, word)) for word in words.split()])


@pytest.mark.parametrize(("base", "words", "aspects"), EFFECTS)
def test_an_option_changes_what_it_should(base, words, aspects, draw):
    one, other = draw(base), draw(base, words)
    both = one["show"].keys() & other["show"].keys()
    one, other = ({**d, "show": {k: d["show"][k] for k in both}} for d in (one, other))
    check_changed(one, other, aspects)


def test_so_many_views_are_drawn_at_a_time(places, tmp_path, monkeypatch):
    """--view_batch."""
    sizes, forward = [], nn.Module.__call__

    def counted(self, *inputs, **more):
        if type(self).__name__ == "CAMNet":
            sizes.append(len(inputs[0]))
        return forward(self, *inputs, **more)

    for rows in (4, 1):
        args = options(places, f"{PLAIN} --view_batch {rows} --outdir {tmp_path / str(rows)}")
        monkeypatch.setattr(nn.Module, "__call__", counted)
        SCRIPT.main(args)
        monkeypatch.undo()
        assert sizes and set(sizes) == {rows}
        sizes.clear()


def test_the_layout_of_the_generator(places):
    """--view_channels_last."""
    for words, layout in (("", torch.channels_last), ("--no-view_channels_last", None)):
        args = options(places, f"{PLAIN} {words}")
        sampler, _ = parts.sampler(args, args.net, 16, torch.device("cpu"), lambda line: None)
        tensors = [*sampler._net.parameters(), *sampler._net.buffers()]
        convs = [w for w in tensors if w.ndim == 4 and min(w.shape[1:]) > 1]
        last = {w.is_contiguous(memory_format=torch.channels_last) for w in convs}
        assert last == {layout is not None}


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_are_decoded_by_so_many_processes(workers, places, tmp_path, monkeypatch):
    """--num_workers."""
    notes, picture = tmp_path / "pids", LabelledImages.__getitem__

    def noted(self, *more):
        with notes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return picture(self, *more)

    monkeypatch.setattr(LabelledImages, "__getitem__", noted)
    SCRIPT.main(options(places, f"{PLAIN} --num_workers {workers} --outdir {tmp_path / 'out'}"))
    assert (str(os.getpid()) in notes.read_text().split()) == (workers == 0)


def test_the_weights_are_read_where_they_are_said_to_be(places, tmp_path):
    """--lpips_path."""
    file = tmp_path / "weights.pth"
    words = f"{PLAIN} --lpips_max 1 --lpips_path {file} --outdir {tmp_path / 'out'}"
    with pytest.raises(UsageError, match=f"there is no {file}"):
        SCRIPT.main(options(places, words))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--tries 2", "--tries 2 is of --lpips_min and --lpips_max"),
        ("--lpips random", "--lpips random is of --lpips_min and --lpips_max"),
        ("--lpips_path x", "--lpips_path x is of --lpips_min and --lpips_max"),
        ("--lpips_max 1 --lpips random --lpips_path x", "--lpips_path x is of --lpips pretrained"),
        ("--view_source upsampled --code fixed", "--code fixed is of --view_source generated"),
        ("--view_source upsampled --temperature 2", "--temperature 2 is of --view_source"),
        ("--view_source upsampled --truncation 2", "--truncation 2 is of --view_source"),
    ],
)
def test_what_has_no_effect_is_refused(words, says, places, capsys):
    with pytest.raises(SystemExit, match="2"):
        options(places, f"{PLAIN} {words}")
    assert says in capsys.readouterr().err
