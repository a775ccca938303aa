"""How fast scenes render, on one core: `python -m benchmarks.scenes` (or --sizes 64 --seconds 5).

Every figure is over fresh scenes (planning included): `all` gives image, boxes, masks,
segmentation, depth, height and water; `image` the picture alone. The best of three rounds is
printed with the clock of the wall and with that of the process, which says what a busy machine
would do if it were free.
"""

import argparse
import itertools
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from data.scenes import Scenes  # noqa: E402
from runtime.cli import prepare  # noqa: E402


def rate(
    scenes: Scenes, size: int, seconds: float, start: int, everything: bool
) -> tuple[float, float]:
    """(scenes/s by the wall, scenes/s by processor time) of consecutive scenes from `start`."""
    draw = scenes.render if everything else scenes.image
    wall, cpu = time.perf_counter(), time.process_time()
    for done in itertools.count(1):
        draw(start + done, size)
        passed = time.perf_counter() - wall
        if passed >= seconds:
            return done / passed, done / (time.process_time() - cpu)
    raise AssertionError("never reached")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Scenes per second on one core.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="seconds: does it run?")
    prepare(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.sizes, args.seconds, args.rounds = [16], 0.01, 1
    print(f"{'size':>5} {'style':>6} {'flood':>6} {'what':>6} {'scenes/s':>9} {'per cpu s':>10}")
    for size in args.sizes:
        for style, flooded, everything in (
            ("real", None, True),
            ("real", True, True),
            ("sim", None, True),
            ("real", None, False),
        ):
            scenes = Scenes(count=1 << 40, style=style, flooded=flooded)
            scenes.render(0, size)
            rounds = [
                rate(scenes, size, args.seconds, 100_000 * k, everything)
                for k in range(args.rounds)
            ]
            wall, cpu = max(r[0] for r in rounds), max(r[1] for r in rounds)
            what = "all" if everything else "image"
            print(
                f"{size:5d} {style:>6} {flooded!s:>6} {what:>6} {wall:9.0f} {cpu:10.0f}", flush=True
            )


if __name__ == "__main__":
    main()
