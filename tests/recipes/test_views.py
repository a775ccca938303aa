"""generate_views: its options, and how they become a source of views."""

import math

import pytest

from recipes.views import parts
from recipes.views.options import get_args


@pytest.mark.parametrize(
    "words, says",
    [
        (["--data", "scenes"], "--net"),
        (["--net", "x"], "--data"),
        (["--net", "x", "--data", "d", "--lpips_min", "2", "--lpips_max", "1"], "lpips_min 2"),
        (["--net", "x", "--data", "d", "--views", "0"], "views"),
        (["--net", "x", "--data", "d", "--format", "zip"], "format"),
    ],
)
def test_wrong_arguments_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        get_args(None, words)
    assert stop.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and says in said[0]


@pytest.mark.parametrize("views, rows", [(8, 64), (7, 64), (3, 6), (100, 64), (5, 1), (1, 64)])
def test_turns_fill_batches(views, rows):
    pictures = parts.pictures_at_once(views, rows)
    assert pictures >= 1 and pictures * views <= 8 * max(views, rows)
    if pictures * views % rows:  # only where whole batches would have been too many
        assert math.lcm(views, rows) > 8 * max(views, rows)
