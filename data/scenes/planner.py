"""Puts things and ridges into a scene, and keeps what can be seen."""

from data.scenes.draw import Colour, Draw
from data.scenes.ridges import OutlineMaker, Ridge, summed
from data.scenes.things.thing import Thing
from data.scenes.world import Scene

SMALLEST = 0.012  # of a side of a thing's box, image heights


class Planner:
    """A scene in the making. Everything is drawn from one stream: order matters."""

    def __init__(self, draw: Draw, scene: Scene) -> None:
        self.draw = draw
        self.scene = scene

    def x_at(self, u: float, z: float) -> float:
        """Metres right of the axis of what is seen at u, z metres away."""
        return (u - self.scene.axis) * z

    def add(self, thing: Thing) -> None:
        """Set a thing down, if enough of it lies in the picture."""
        thing.set_down(self.scene)
        left, top, right, bottom = thing.extent(self.scene)
        box = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
        width, height = box[2] - box[0], box[3] - box[1]
        if width < SMALLEST or height < SMALLEST:
            return
        if width * height / ((right - left) * (bottom - top)) < (0.04 if thing.wall else 0.4):
            return
        thing.box = box
        self.scene.things.append(thing)

    def ridge(
        self,
        outline: OutlineMaker,
        *,
        height: float,
        z: float,
        colour: Colour,
        segment: str,
        roughness: float = 0.0,
        windows: float = 0.0,
        peak: Colour | None = None,
        peak_line: float = 0.55,
    ) -> Ridge:
        """Add a ridge `height` image heights high; `peak_line` is where its peaks begin, of that.

        Ridges are added far to near.
        """
        horizon = self.scene.horizon
        heights, summits = outline(self.draw, height)
        tops = horizon - heights
        ridge = Ridge(
            z=z,
            summed=summed(tops),
            highest=float(tops.min()),
            colour=colour,
            segment=segment,
            peak=peak,
            peak_v=horizon - height * peak_line,
            roughness=roughness,
            windows=windows,
            summits=summits,
        )
        self.scene.ridges.append(ridge)
        return ridge

    def ceiling(self) -> float:
        """v of the highest point of the ridges."""
        return min([r.highest for r in self.scene.ridges], default=self.scene.horizon)

    def clear(self, least_free: float) -> None:
        """Drop the things of which nearer ones leave less than a share free, and put the rest in
        painting order (far to near).
        """
        things = sorted(self.scene.things, key=lambda t: (not t.in_sky, not t.wall, -t.z))
        kept: list[Thing] = []
        for thing in reversed(things):
            if not thing.wall:
                left, top, right, bottom = thing.box
                hidden = 0.0
                for other in kept:
                    a, b, c, d = other.box
                    if a < right and left < c and b < bottom and top < d:
                        hidden += (min(right, c) - max(left, a)) * (min(bottom, d) - max(top, b))
                if hidden > (1 - least_free) * (right - left) * (bottom - top):
                    continue
            kept.append(thing)
        self.scene.things = kept[::-1]
