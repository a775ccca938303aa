"""A relative --outdir means the same in every script: a folder in the results of that script."""

import pytest

from tests.scripts.support import get_args, load


@pytest.mark.parametrize(
    ("name", "words", "made"),
    [
        ("generate_images", "--preset smoke", "grid.png"),
        ("generate_images", "--preset smoke-edm2 --seeds 0", "grid.png"),
        ("generate_views", "--preset smoke --num_images 2 --views 1", "views-train.json"),
        ("reconstruct_phema", "--preset smoke --outstd 0.07", "phema-0000400-0.070.safetensors"),
    ],
)
def test_scripts_that_write_a_folder(name, words, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = load(name)
    for outdir, where in (("out/a", f"results/{name}/out/a"), ("./out/b", "out/b")):
        script.main(get_args(script, [*words.split(), "--outdir", outdir]))
        assert (tmp_path / where / made).is_file()


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    for name in ("DATA", "MODELS", "RESULTS"):
        monkeypatch.setenv(f"{name}_HOME", str(tmp_path / name.lower()))
