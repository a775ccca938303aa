"""Every output of 200 scenes, at two sizes, in both styles, dry and flooded, is as recorded."""

import numpy as np
import pytest

from data.scenes import CLASSES, Scenes, SceneSample
from tests.data.scenes import recording

SOME = range(0, recording.COUNT, 8)


def differences(indices: range) -> list[str]:
    """What differs from the recording, a line for each rendering or sketch."""
    scenes = Scenes()
    arithmetic, recorded = recording.read()
    exact = arithmetic == recording.arithmetic()
    found = []
    for index in indices:
        now, then = recording.measure(scenes, index), recorded[index]
        name = f"scene {index} ({CLASSES[scenes.label(index)]})"
        if exact:
            pairs = zip(recording.RENDERINGS, now.digests, then.digests, strict=True)
            found += [f"{name} at size, style, flooded {k}" for k, a, b in pairs if a != b]
        apart = np.abs(now.sketch.astype(int) - then.sketch)
        # Other arithmetic may carry a pixel of 64 over an edge.
        if apart.max() > (0 if exact else 4):
            found.append(f"{name}: its sketch is {apart.max()} grey levels off")
    return found


def test_some_scenes_are_as_recorded():
    assert not differences(SOME)


@pytest.mark.slow
def test_all_scenes_are_as_recorded():
    assert not differences(range(recording.COUNT))


def test_the_recording_is_whole():
    _, recorded = recording.read()
    assert list(recorded) == list(range(recording.COUNT))
    assert all(len(set(r.digests)) == len(recording.RENDERINGS) for r in recorded.values())
    shown = {Scenes().label(i) for i in SOME}
    assert shown == set(range(len(CLASSES)))


@pytest.mark.parametrize("name", recording.ARRAYS)
def test_one_changed_element_is_seen(name):
    sample = Scenes().render(8, 32, "real", True)
    before = recording.digest(sample)
    lowest_bits = getattr(sample, name).view(np.uint8).reshape(-1)
    lowest_bits[0] ^= 1
    assert recording.digest(sample) != before


def test_a_changed_scene_is_named(monkeypatch):
    kept = Scenes.render

    def brighter(self, index: int, size: int, style: str, flooded: bool) -> SceneSample:
        sample = kept(self, index, size, style, flooded)
        if index == 16 and size == 128 and style == "sim" and not flooded:
            sample.image[0, 0, 0] ^= 1
        return sample

    monkeypatch.setattr(Scenes, "render", brighter)
    exact = recording.read()[0] == recording.arithmetic()
    name = f"scene 16 ({CLASSES[Scenes().label(16)]})"
    expected = [f"{name} at size, style, flooded (128, 'sim', False)"] if exact else []
    assert differences(range(8, 24, 8)) == expected
