"""A run of the main job with --tensorboard, killed and gone on with."""

import signal

from tests import kill_harness as harness
from tests.runtime.test_event_files import events, metrics
from tests.scripts.support import train


def test_a_killed_run_shows_every_point_once(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    words = [run, "--tensorboard", "--save_every", "3"]
    for point in ("pre-write", "post-manifest:2", "post-rename:2"):
        died = harness.finish(train, words, log, {"IMLE_LAB_FAILPOINT": point})
        assert died == -signal.SIGKILL, log.read_text()
    assert harness.finish(train, words, log) == 0, log.read_text()
    scalars, images = events(run)
    wanted = metrics(run)
    assert scalars == wanted and len(scalars["batch loss"]) == 12
    assert [step for step, _ in images["val"]] == [0, 4, 8, 12]
    for step, png in images["val"]:
        assert png == (run / "samples" / f"val-{step:09d}.png").read_bytes()
