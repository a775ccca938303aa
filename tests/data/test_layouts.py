"""Every layout is found, split, labelled and refused as it was when `layouts.json` was recorded."""

import json

from tests.data.layouts import RECORDED, all_layouts, compact, found


def test_every_place_is_what_it_was(tmp_path):
    with all_layouts(tmp_path) as data:
        now = compact(found(tmp_path, data))
    then = json.loads(RECORDED.read_text())
    assert list(now) == list(then)
    different = {k: (then[k], now[k]) for k in then if then[k] != json.loads(json.dumps(now[k]))}
    assert not different, "\n".join(
        f"{k}\n  was {was}\n  is  {now}" for k, (was, now) in list(different.items())[:20]
    )
