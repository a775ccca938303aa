"""Procedural scenes, part three: a planned scene painted at any resolution, in either style, dry or
flooded.

Things are painted far to near; the label of a pixel changes where a thing covers at least half of
it. Buffers are planar float32 ([3, S, S]); a finished window is blended into the picture once, and
once more, upside down, into water.
"""

import math

import numpy as np

from data.scene_plan import (
    EDGE,
    FAR,
    IN_SKY,
    SEGMENT,
    SEGMENT_OF,
    TOP,
    Ridge,
    Scene,
    Strip,
    Thing,
    mix,
)
from data.scene_things import PAINT, Card, Look, column, dice, grid, lookup, pulse, smooth, unit

_f = np.float32
_KNOTS = np.arange(513) / 512.0
_LIT = {name: SEGMENT[SEGMENT_OF[name]] for name in SEGMENT_OF}


# -- the picture -----------------------------------------------------------------------------------
class Picture:
    """One scene being painted at one size. `layers` (tests) collects every thing's own coverage."""

    def __init__(
        self, scene: Scene, size: int, style: str, flooded: bool, trace: bool = False
    ) -> None:
        self.s = scene
        self.g = grid(size)
        self.look = Look(scene, style)
        self.level = scene.rise if flooded else 0.0
        self.flooded = flooded
        n = size
        self.image = np.empty((3, n, n), _f)
        self.segment = np.zeros((n, n), np.uint8)
        self.instance = np.full((n, n), -1, np.int16)
        self.depth = np.full((n, n), FAR, _f)
        self.height = np.full((n, n), TOP, _f)
        self.layers: list[tuple[int, np.ndarray, np.ndarray]] | None = [] if trace else None
        self.front = np.full((n, n), np.inf, _f)  # depth of the nearest thing, drowned or not
        self.far = np.zeros((n, n), _f)  # how much of the sky the ridges hide
        m = scene.mood
        self.haze_colour = mix(m.horizon, m.middle, 0.25)
        self._sky()
        for ridge in scene.ridges:
            self._ridge(ridge)
        self._ground()
        for k, thing in enumerate(scene.things):
            self._thing(k, thing)
        # Water is, by definition, where the height is below the level.
        self.water = self.height < self.level
        if self.water.any():
            np.copyto(self.segment, SEGMENT["water"], where=self.water)
            np.copyto(self.instance, -1, where=self.water)
        if self.look.real and m.dark:
            self._lights()

    # Sky.
    def _sky(self) -> None:
        s, g, m, look = self.s, self.g, self.s.mood, self.look
        stop = s.horizon + s.camera / min([r.z for r in s.ridges], default=EDGE)
        rows = min(g.size, int(stop * g.size) + 1)
        v = g.v[:rows]
        t = np.minimum(v * (1.0 / stop), 1.0)[:, 0]
        stops = np.array([look.sky(c) for c in (m.zenith, m.middle, m.horizon)], dtype=_f)
        sky = np.stack([np.interp(t, (0.0, 0.62, 1.0), stops[:, k]) for k in range(3)]).astype(_f)
        image = self.image[:, :rows]
        image[:] = sky[:, :, None]
        if not look.real:
            return
        u0, v0 = s.sun
        du, dv = g.u - u0, v - v0
        r2 = du * du + dv * dv
        glow = np.exp(r2 * -9.0)
        if not m.dark or m.light[0] > 0.4:
            glow *= 0.40
            glow += 0.45 * np.exp(r2 * -90.0)
        else:
            glow *= 0.22
        c = column(m.sun) - image
        c *= glow
        image += c
        if s.veil > 0.25:
            # Thin cloud on a plane overhead: it closes up towards the horizon.
            far = 1.0 / (stop + 0.12 - v)
            fade = unit(1.8 - far * (far * g.step) * 6.0) * (s.veil * 0.55)
            x = (g.u - s.axis) * far * 9.0 + (far * 4.0)
            n = lookup(far * 22.0 + s.shift[0], x * 0.8 + (256.0 * 16 + s.shift[1]))
            n += 0.5 * lookup(far * 50.0 + s.shift[1], x * 2.1 + (256.0 * 16 + s.shift[0]))
            n -= 0.1
            n *= fade
            np.maximum(n, 0.0, out=n)
            c = column(mix(m.horizon, m.sun, 0.5)) - image
            c *= n
            image += c
        if m.light[0] < 0.4:
            self._stars()

    def _stars(self) -> None:
        s, g = self.s, self.g
        fixed = dice()
        k = (s.shift[0] * 256 + s.shift[1]) % 3000
        u, v, b = (
            fixed[k : k + 60],
            fixed[k + 60 : k + 120] * (s.horizon * 0.8),
            fixed[k + 120 : k + 180],
        )
        # A star is a small disc: below a pixel it only gets dimmer.
        r = 0.0035
        share = np.minimum(1.0, (r / g.step) ** 2 * 1.8) * b
        at_r, at_c = (v * g.size).astype(int), (u * g.size).astype(int)
        for i in range(3):
            np.add.at(self.image[i], (at_r, at_c), share * (0.75, 0.8, 0.95)[i])

    # Far cards.
    def _ridge(self, ridge: Ridge) -> None:
        s, g, look = self.s, self.g, self.look
        n, step = g.size, g.step
        foot = s.horizon + s.camera / ridge.z
        r0, r1 = max(int(ridge.highest * n) - 1, 0), min(int(math.ceil(foot * n)), n)
        if r0 >= r1:
            return
        edge = np.interp(g.edges, _KNOTS, ridge.top)
        top = (np.diff(edge) * n).astype(_f)[None, :]
        v = g.v[r0:r1]
        cover = unit((v - top) * n + 0.5)
        cover *= unit((foot - v) * n + 0.5)
        image = self.image[:, r0:r1]
        colour = look.lit(ridge.colour)
        haze = look.haze(ridge.z) * 0.8
        c = column(mix(colour, self.haze_colour, haze))
        if look.real:
            down = v - top
            fade = min(1.0, max(0.0, 1.5 - step * 60.0))
            x, y = g.u * 150.0 + s.shift[0], v * 260.0 + s.shift[1]
            k = lookup(y, x + (down * 90.0 if ridge.segment == "mountain" else 0.0))
            k *= 0.13 * ridge.rough * fade
            if n > 100 and ridge.rough > 0:
                k += (0.10 * ridge.rough * min(1.0, n / 100.0 - 1.0)) * lookup(y * 3.0, x * 3.1)
            if ridge.centre is not None:
                # Two faces to a summit, parted by a ragged crest that runs down from it.
                warp = lookup(v * 420.0 + s.shift[0], g.u * 230.0 + s.shift[1])
                at = g.u + warp * 0.012
                at *= 512.0
                np.minimum(np.maximum(at, 0.0, out=at), 511.0, out=at)
                face = g.u - ridge.centre.take(at.astype(np.int32))
                face /= down + 0.03
                face += 0.35 * warp
                face += 0.35 * lookup(v * 150.0 + s.shift[1], g.u * 60.0)
                face *= min(5.0, 0.08 * n)
                np.minimum(np.maximum(face, -1.0, out=face), 1.0, out=face)
                face *= 0.24 if look.lx > 0 else -0.24
                k += face
            k += 1.0
            c = c * k
            # Haze lies deeper in the valleys.
            c += (
                (column(self.haze_colour) - c)
                * np.minimum(np.maximum(1.0 - (foot - v) * 9.0, 0.0), 1.0)
                * (0.75 * haze)
            )
        if ridge.peak is not None:
            line = ridge.peak_v + (
                0.0 if not look.real else 0.03 * lookup(g.u * 0 + s.shift[1], g.u * 190.0)
            )
            snow = unit((line - v) * min(n, 60.0 if look.real else n) + 0.5)
            p = column(mix(look.lit(ridge.peak), self.haze_colour, haze * 0.8))
            if look.real:
                p = p * k
            c = c + (p - c) * snow
        if ridge.windows:
            dark = s.mood.dark
            kx, ky = 90.0, 120.0
            x, y = g.u * kx, (v - s.horizon) * ky
            on = dice().take((y.astype(np.int32) * 37 + x.astype(np.int32) * 101) & 4095)
            fx = (pulse((g.u + step / 2) * kx, 0.5) - pulse((g.u - step / 2) * kx, 0.5)) / (
                kx * step
            )
            fy = (
                pulse((v - s.horizon + step / 2) * ky, 0.55)
                - pulse((v - s.horizon - step / 2) * ky, 0.55)
            ) / (ky * step)
            crisp = max(0.0, min(1.0, 1.8 - kx * step * 0.8))
            on = (on < ridge.windows) * crisp + ridge.windows * (1 - crisp)
            win = (fx * fy) * on * (0.85 if dark else 0.35) * (v > top + 0.008)
            w = column(
                (1.0, 0.82, 0.48)
                if dark
                else mix(look.lit((0.3, 0.34, 0.4)), self.haze_colour, haze)
            )
            c = c + (w - c) * win
        c = c - image
        c *= cover
        image += c
        np.maximum(self.far[r0:r1], cover, out=self.far[r0:r1])
        m = cover >= 0.5
        np.copyto(self.segment[r0:r1], SEGMENT[ridge.segment], where=m)
        np.copyto(self.depth[r0:r1], ridge.z, where=m)
        h = np.minimum((s.horizon - v) * ridge.z + s.camera, TOP)
        np.copyto(self.height[r0:r1], np.maximum(h, s.rise + 0.01), where=m)

    # Ground and water.
    def _ground(self) -> None:
        s, g, look = self.s, self.g, self.look
        n, _step = g.size, g.step
        zr = min([r.z for r in s.ridges], default=EDGE)
        start = s.horizon + s.camera / zr
        r0 = self.r0 = min(int(start * n), n)
        self.wet: np.ndarray | None = None
        if r0 >= n:
            return
        v = g.v[r0:]
        fall = np.maximum(v - s.horizon, s.camera / zr)
        z = s.camera / fall
        x = (g.u - s.axis) * z
        land = s.elevation(x, z)
        level = self.level
        seen = unit((v - start) * n + 0.5)

        # Where water covers the land: the level against the land's slope across a pixel.
        wet = None
        if level > 0 or s.relief[0] != "flat":
            gx = np.abs(land[:, 1:] - land[:, :-1])
            gy = np.abs(land[1:] - land[:-1])
            slope = np.full_like(land, 1e-4)
            slope[:, 1:] += gx
            slope[:, 0] += gx[:, 0] if n > 1 else 0
            slope[1:] += gy
            wet = (level - land) / slope
            wet += 0.5
            unit(wet)
            if not wet.any():
                wet = None

        # Dry ground.
        colour = self._dry(v, z, x)
        segment = self._dry_segment
        if wet is not None:
            if s.relief[0] != "flat" and level == 0.0 and s.ground in ("sand", "grass", "snow"):
                # Wet edge of the shore.
                damp = unit(1.0 - (land - level) * (6.0 if s.ground == "sand" else 9.0))
                colour *= 1.0 - damp * (0.32 if look.real else 0.15)
            water = self._water(v, z, x, land)
            water -= colour
            water *= wet
            colour += water
            self.wet = wet
            np.copyto(segment, SEGMENT["water"], where=land < level)
        self._shadows(colour, v)
        haze = 1.0 - np.exp(z * (-1.0 / s.mood.haze)) if look.real else np.zeros_like(z)
        haze *= 0.85
        colour += (column(self.haze_colour) - colour) * haze
        image = self.image
        image[:, r0 + 1 :] = colour[:, 1:]
        image[:, r0] += (colour[:, 0] - image[:, r0]) * float(seen[0, 0])
        solid = seen[:, 0] >= 0.5
        k = r0 + int(np.argmax(solid)) if solid.any() else n
        self.segment[k:] = segment[k - r0 :]
        self.height[k:] = land[k - r0 :]
        surface = np.maximum(land[k - r0 :], level)
        surface = (s.camera - surface) / fall[k - r0 :]
        self.depth[k:] = np.minimum(np.maximum(surface, 0.5), zr)

    def _dry(self, v: np.ndarray, z: np.ndarray, x: np.ndarray) -> np.ndarray:
        s, g, look = self.s, self.g, self.look
        step = g.step
        near, far = (column(look.lit(c)) for c in s.colours)
        t = np.minimum(z * (1.0 / 60.0), 1.0)
        colour = np.empty((3, *x.shape), _f)
        colour[:] = near + (far - near) * t
        segment = np.full(x.shape, SEGMENT[s.ground], np.uint8)
        foot = z * z * (step / s.camera)  # metres along z in one pixel
        self._foot = foot
        bump = None
        if look.real and s.rough > 0:
            for wave, amount, a, b in (
                (9.0, 0.45, 0, 1),
                (2.2, 0.5, 1, 0),
                (0.6, 0.45, 0, 0),
                (0.16, 0.4, 1, 1),
            ):
                fade = unit(1.5 - foot[:, 0] * (2.0 / wave))
                k = int(np.argmax(fade > 0)) if fade[-1] > 0 else len(fade)
                if k >= len(fade):
                    continue
                read, q = (smooth, 32.0 / wave) if wave > 1.0 else (lookup, 8.0 / wave)
                nz = read(z[k:] * q + s.shift[a], x[k:] * q + (8192.0 + s.shift[b]))
                nz *= fade[k:, None] * (amount * s.rough)
                if bump is None:
                    bump = np.ones_like(x)
                bump[k:] += nz
        for strip in s.strips:
            self._strip(strip, colour, segment, z, x)
        if bump is not None:
            colour *= bump
        self._dry_segment = segment
        return colour

    def _strip(
        self, strip: Strip, colour: np.ndarray, segment: np.ndarray, z: np.ndarray, x: np.ndarray
    ) -> None:
        s, g, look = self.s, self.g, self.look
        n, step = g.size, g.step
        a, b = 0, len(z)
        if strip.far < EDGE:
            top = (s.horizon + s.camera / strip.far) * n - self.r0
            a = max(int(top), 0)
        if strip.near > 0:
            low = (s.horizon + s.camera / strip.near) * n - self.r0
            b = min(int(math.ceil(low)), b)
        if a >= b:
            return
        zz = z[a:b]
        mid = strip.middle(zz) / zz + s.axis
        half = strip.half / zz
        left, right = mid - half, mid + half
        h = step * 0.5
        cover = np.minimum(g.u + h, right) - np.maximum(g.u - h, left)
        np.maximum(cover, 0.0, out=cover)
        cover *= n
        v = g.v[self.r0 + a : self.r0 + b]
        if strip.far < EDGE or strip.near > 0:
            v0 = s.horizon + s.camera / strip.far
            v1 = s.horizon + s.camera / max(strip.near, 0.1)
            rows = np.minimum(v + h, v1) - np.maximum(v - h, v0)
            cover *= np.maximum(rows, 0.0) * n
        if strip.dash:
            fall = np.maximum(v - h - s.horizon, s.camera / EDGE)
            z0, z1 = s.camera / (fall + step), s.camera / fall
            q = 1.0 / strip.dash
            share = (pulse(z1 * q, 0.45) - pulse(z0 * q, 0.45)) / np.maximum((z1 - z0) * q, 1e-6)
            cover *= share
        c = column(look.lit(strip.colour))
        if strip.furrow and look.real:
            q = 2 * math.pi / strip.furrow
            fade = unit(1.5 - zz * (step * 3.0 / strip.furrow))
            k = np.cos((x[a:b] - strip.centre[1] * zz) * q)
            k *= 0.16 * fade
            k += 1.0
            c = c * k
        part = colour[:, a:b]
        c = c - part
        c *= cover
        part += c
        np.copyto(segment[a:b], SEGMENT[strip.segment], where=cover >= 0.5)

    def _water(self, v: np.ndarray, z: np.ndarray, x: np.ndarray, land: np.ndarray) -> np.ndarray:
        """Colour of water everywhere on the ground's rows: the background mirrored, and the
        water's own.
        """
        s, g, look, n = self.s, self.g, self.look, self.g.size
        natural = s.relief[0] != "flat"
        own = (
            mix(s.water, s.murk, 0.55)
            if natural and self.flooded
            else (s.murk if self.flooded else s.water)
        )
        own = look.lit(own)
        fall = v - s.horizon
        self.fresnel = 0.30 + 0.58 * np.exp(fall * -3.2)
        if not look.real:
            tint = mix(own, look.sky(s.mood.middle), 0.35)
            flat = np.empty((3, *x.shape), _f)
            flat[:] = column(tint)
            return flat
        foot = self._foot
        wave = None
        for length, amount, turn in ((3.0, 1.0, 0.25), (0.8, 0.6, -0.3)):
            fade = unit(1.5 - foot * (1.4 / length))
            q = 32.0 / length
            w = smooth(z * q + s.shift[1], (x * 0.35 + turn * z) * q + (8192.0 + s.shift[0]))
            w *= fade * amount
            wave = w if wave is None else wave + w
        # Mirror row of every pixel, moved by the waves, read between two rows.
        row = (s.horizon - fall) * n - 0.5
        row = row + wave * (0.010 * n)
        np.minimum(np.maximum(row, 0.0, out=row), max(self.r0 - 1.001, 0.0), out=row)
        k = row.astype(np.int32)
        t = row - k
        flat = self.image.reshape(3, -1)
        at = k * n + np.arange(n, dtype=np.int32)
        a = flat.take(at, axis=1)
        b = flat.take(at + n * (1 if self.r0 > 1 else 0), axis=1)
        b -= a
        b *= t
        a += b
        own_c = column(own)
        a -= own_c
        a *= self.fresnel
        a += own_c
        wave *= 0.10
        wave += 1.0
        a *= wave
        if s.mood.light[0] > 0.4 and s.mood.shadow > 0.16:
            # A road of light below the sun.
            du = (g.u - s.sun[0]) * (1.0 / 0.10)
            road = np.exp(-(du * du)) * np.maximum(wave - 1.0, 0.0) * 3.0
            road += 0.10 * np.exp(-(du * du))
            a += column(s.mood.sun) * road
        if s.relief[0] == "sea" and not self.flooded:
            # Foam where the sea runs out, and one line of it further out.
            foam = unit(1.0 - np.abs(land + 0.05) * 14.0) + 0.6 * unit(
                1.0 - np.abs(land + 0.32) * 12.0
            )
            foam *= unit(wave * 5.0 - 4.3)
            a += (column(look.lit((0.97, 0.98, 0.98))) - a) * foam
        return a

    def _shadows(self, colour: np.ndarray, v: np.ndarray) -> None:
        s, g, look = self.s, self.g, self.look
        strength = s.mood.shadow
        if not look.real:
            return
        n = g.size
        dark = None
        for t in s.things:
            if t.kind in IN_SKY or t.floats or t.kind == "lighthouse":
                continue
            if self.level > t.foot + 0.05:
                continue
            cu = s.axis + t.x / t.z
            cv = s.horizon + (s.camera - t.foot) / t.z
            reach = min(0.9 * t.h, 5.0) * -look.lx
            a = (0.55 * t.w + 0.5 * abs(reach)) / t.z
            b = max(0.10 * t.w, 0.22) * (cv - s.horizon) / t.z * 2.2 + 0.004
            cu += 0.5 * reach / t.z
            c0, c1 = max(int((cu - a) * n), 0), min(int((cu + a) * n) + 1, n)
            q0, q1 = (
                max(int((cv - b) * n) - self.r0, 0),
                min(int((cv + b) * n) + 1 - self.r0, n - self.r0),
            )
            if c0 >= c1 or q0 >= q1:
                continue
            dx = (g.u[:, c0:c1] - cu) * (1 / a)
            dy = (v[q0:q1] - cv) * (1 / b)
            k = 1.0 - (dx * dx + dy * dy)
            k = np.minimum(np.maximum(k, 0.0, out=k) * 1.6, 1.0)
            k *= -(strength * 0.9 + 0.1)
            k += 1.0
            if dark is None:
                dark = np.ones(colour.shape[1:], _f)
            dark[q0:q1, c0:c1] *= k
        if dark is not None:
            colour *= dark

    # Things.
    def _thing(self, k: int, t: Thing) -> None:
        s, g = self.s, self.g
        if t.kind in IN_SKY:
            u0, u1, v0, v1 = t.x - t.w / 2, t.x + t.w / 2, t.foot - t.h, t.foot
            r0, r1, c0, c1 = self._window(u0, v0, u1, v1)
            if r0 >= r1 or c0 >= c1:
                return
            card = Card(r0, c0, g.u[:, c0:c1] - t.x, t.foot - g.v[r0:r1], g.step)
            PAINT[t.kind](card, t, self.look)
            self._commit(k, t, card, t.z, None)
            return
        if t.z_end:
            self._block(k, t)
            return
        base = self.level if t.floats else t.foot
        foot = s.horizon + (s.camera - base) / t.z
        u = s.axis + t.x / t.z
        r0, r1, c0, c1 = self._window(u - t.w / 2 / t.z, foot - t.h / t.z, u + t.w / 2 / t.z, foot)
        if r0 >= r1 or c0 >= c1:
            return
        card = Card(r0, c0, (g.u[:, c0:c1] - u) * t.z, (foot - g.v[r0:r1]) * t.z, t.z * g.step)
        PAINT[t.kind](card, t, self.look)
        self._commit(k, t, card, t.z, card.y + base)

    def _window(self, u0: float, v0: float, u1: float, v1: float) -> tuple[int, int, int, int]:
        n = self.g.size
        return (
            max(int(math.floor(v0 * n)), 0),
            min(int(math.ceil(v1 * n)), n),
            max(int(math.floor(u0 * n)), 0),
            min(int(math.ceil(u1 * n)), n),
        )

    def _block(self, k: int, t: Thing) -> None:
        """A house or a building: a front at z, one side running back to z_end, windows on both."""
        s, g, look = self.s, self.g, self.look
        _n, step = g.size, g.step
        gable = t.kind == "house"
        roof = t.parts[0] if gable else 0.0
        wall_h = t.h - roof
        x0, x1 = t.x - t.w / 2, t.x + t.w / 2
        inner = x0 if x0 > 0 else (x1 if x1 < 0 else 0.0)
        z0, z1 = t.z, t.z_end
        hang = 0.35 / z0 if gable else 0.0
        u0, u1 = s.axis + x0 / z0, s.axis + x1 / z0
        if inner:
            u0, u1 = min(u0, s.axis + inner / z1), max(u1, s.axis + inner / z1)
        v0 = s.horizon + min((s.camera - t.foot - t.h) / z0, (s.camera - t.foot - t.h) / z1)
        v1 = s.horizon + (s.camera - t.foot) / z0
        r0, r1, c0, c1 = self._window(u0 - hang, v0, u1 + hang, v1)
        if r0 >= r1 or c0 >= c1:
            return
        card = Card(r0, c0, g.u[:, c0:c1], g.v[r0:r1], step)
        # Depth of each column, and metres along the wall: outwards on the front, back on the side.
        ue = g.edges[c0 : c1 + 1]
        off = np.abs(ue - s.axis) if inner else ue - s.axis
        if inner:
            ze = abs(inner) / np.maximum(off, 1e-4)
            np.minimum(np.maximum(ze, z0, out=ze), z1, out=ze)
            along = (off * ze - abs(inner)) - (ze - z0)
        else:
            ze = np.full_like(ue, z0)
            along = off * z0 - x0
        z = (0.5 * (ze[1:] + ze[:-1]))[None, :]
        side = unit((z - z0) * 8.0) if inner else np.zeros_like(z)
        down = g.edges[r0 : r1 + 1, None] - s.horizon
        ye = s.camera - t.foot - down * z  # height above the foot at row edges [h + 1, w]
        tall = z * step  # metres in a pixel, [1, w]
        typical = float(tall[0, tall.shape[1] // 2])
        top = wall_h + 0.0 * z
        if gable and inner:
            middle = 0.5 * (z0 + z1)
            top = wall_h + roof * np.maximum(1.0 - np.abs(z - middle) * (2.0 / (z1 - z0)), 0.0)
        cover = np.minimum(ye[:-1], top) - np.maximum(ye[1:], 0.0)
        cover /= tall
        np.maximum(cover, 0.0, out=cover)
        cover *= card.hspan(u0, u1)
        # Brightness: which face looks at the sun, and a little less light below.
        faces = 0.80 if (look.lx * t.x < 0) else 0.66
        if look.real:
            tone = 1.0 + (faces - 1.0) * side
            tone = tone * (0.88 + 0.14 * np.minimum(ye[:-1] * (1.0 / max(wall_h, 4.0)), 1.0))
        else:
            tone = 1.0 - 0.25 * side
        colour = look.lit(t.colour)
        card.paint(cover, colour)
        card.shade(tone)

        if gable:
            sill, _height, seed = 0.9, 1.3, t.parts[3]
            px, py, dx, dy = 2.3, 2.7, 0.42, 0.46
            if wall_h < 3.6:
                py = wall_h + 0.2
            lift = sill
        else:
            px, py, dx, dy, seed, lift = (
                *t.parts[:4],
                t.parts[4],
                t.parts[5] + (0.8 if t.variant else 0.0),
            )
        p = along * (1.0 / px) - 0.29
        dp = p[1:] - p[:-1]
        fx = (pulse(p[1:], dx) - pulse(p[:-1], dx)) / np.where(np.abs(dp) < 1e-4, 1e-4, dp)
        q = (ye - lift) * (1.0 / py)
        fy = pulse(q, dy)
        fy = (fy[:-1] - fy[1:]) * (py / tall)
        win = fy * fx
        win *= cover
        if gable:
            win *= np.minimum(np.maximum((wall_h - ye[:-1]) / tall + 0.5, 0.0), 1.0)
        else:
            win *= np.minimum(np.maximum((wall_h - 0.5 - ye[:-1]) / tall + 0.5, 0.0), 1.0)
        dark = s.mood.dark
        cx = np.floor(0.5 * (p[1:] + p[:-1])).astype(np.int32)
        cy = np.floor(0.5 * (q[1:] + q[:-1])).astype(np.int32)
        luck = dice().take((cx * 131 + cy * 517 + seed * 7) & 4095)
        if dark:
            share = 0.45 if not gable else 0.6
            crisp = min(1.0, max(0.0, 1.9 - typical / py * 1.4))
            on = (luck < share) * crisp + share * (1 - crisp)
            warm = (1.0, 0.80, 0.42) if seed % 3 else (0.95, 0.92, 0.75)
            card.paint(win, look.lit((0.16, 0.18, 0.24)))
            card.paint(win * (on * (0.55 + 0.45 * luck * 2)).astype(_f), warm)
        else:
            glass = (0.20, 0.24, 0.30) if gable else t.accent
            card.paint(win, look.lit(glass))
            if look.real:
                card.paint(
                    win * ((luck * 0.5) * (0.3 + 0.7 * (1 - side))),
                    mix(s.mood.middle, s.mood.horizon, 0.5),
                )
        if gable:
            self._roof(card, t, x0, x1, z0, z1, wall_h, roof, inner)
        else:
            band = (
                np.minimum(np.maximum((ye[:-1] - (wall_h - 0.45)) / tall + 0.5, 0.0), 1.0) * cover
            )
            card.paint(
                band, look.lit(mix(t.colour, (0.9, 0.9, 0.9), 0.3), 0.9 if t.variant else 0.7)
            )
            if t.variant == 1:
                shop = np.minimum(np.maximum((2.7 - ye[1:]) / tall + 0.5, 0.0), 1.0) * cover
                glow = (
                    (0.98, 0.80, 0.50) if dark else look.lit(mix(t.accent, (0.2, 0.14, 0.1), 0.4))
                )
                card.paint(shop * 0.85, glow)
        if look.real:
            card.shade(
                1.0
                + 0.03
                * lookup(ye[:-1] * 9.0 + seed, along[1:] * 9.0 + 4096.0)
                * min(1.0, 0.9 / typical)
            )
        self._commit(k, t, card, z, 0.5 * (ye[1:] + ye[:-1]) + t.foot)

    def _roof(
        self,
        c: Card,
        t: Thing,
        x0: float,
        x1: float,
        z0: float,
        z1: float,
        wall: float,
        roof: float,
        inner: float,
    ) -> None:
        s, look = self.s, self.look
        middle = 0.5 * (z0 + z1)
        va = s.horizon + (s.camera - t.foot - wall + 0.12) / z0
        vb = s.horizon + (s.camera - t.foot - wall - roof) / middle
        if vb >= va:
            return
        q = (c.y - va) * (1.0 / (vb - va))
        left = s.axis + (x0 - 0.3) / z0
        left2 = s.axis + (x0 - 0.3) / middle
        right = s.axis + (x1 + 0.3) / z0
        right2 = s.axis + (x1 + 0.3) / middle
        cover = c.hspan(left + (left2 - left) * q, right + (right2 - right) * q)
        cover *= c.vspan(vb, va)
        colour = look.lit(t.accent)
        c.paint(cover, colour)
        if look.real:
            rows = (va - vb) / max(c.pixel, 1e-6)
            lines = 0.10 * np.sin(q * 40.0) if rows > 34 else 0.0
            k = (0.16 * q - 0.10 + lines) * cover
            c.rgba[:3] *= 1.0 + k
        at = x0 + t.parts[1] * (x1 - x0)
        u = s.axis + at / middle
        w = 0.4 / middle
        top = s.horizon + (s.camera - t.foot - t.h + 0.02) / middle
        stack = c.hspan(u - w, u + w) * c.vspan(top, top + 1.1 / middle)
        c.paint(stack, look.lit(mix(t.colour, (0.5, 0.3, 0.25), 0.5), 0.85))
        # The door, on the front.
        at = (x0 + (0.30 + 0.4 * t.parts[2]) * (x1 - x0)) / z0 + s.axis
        base = s.horizon + (s.camera - t.foot) / z0
        door = c.hspan(at - 0.55 / z0, at + 0.55 / z0) * c.vspan(base - 2.1 / z0, base)
        c.paint(door, look.lit(mix(t.accent, (0.3, 0.18, 0.1), 0.5)))

    def _commit(
        self, k: int, t: Thing, card: Card, z: float | np.ndarray, y: np.ndarray | None
    ) -> None:
        """Blend a finished window into the picture, its mirror image into water, and write its
        labels.
        """
        look, n = self.look, self.g.size
        rgba = card.rgba
        h, w = rgba.shape[1:]
        r0, c0 = card.r0, card.c0
        rows, cols = slice(r0, r0 + h), slice(c0, c0 + w)
        alpha = rgba[3]
        if y is None:
            rgba *= 1.0 - self.far[rows, cols]
        else:
            y = np.maximum(y, self.level if t.floats else t.foot)
        mine = alpha >= 0.5
        solid = mine
        if y is not None and not t.floats and self.level > t.foot:
            rgba *= unit((y - self.level) / (z * self.g.step) + 0.5) * (not self.gone(t))
            mine = mine & (y >= self.level) & (not self.gone(t))
        if self.layers is not None:
            full = np.zeros((n, n), bool)
            full[rows, cols] = mine
            depth = np.full((n, n), np.inf, _f)
            depth[rows, cols] = z
            self.layers.append((k, full, depth))
        if t.z_end:
            # A block reaches back: what stands beside it, nearer than its wall, stays in front.
            hidden = self.front[rows, cols] < z
            if hidden.any():
                rgba *= ~hidden
                mine = mine & ~hidden
                solid = solid & ~hidden
        if look.real and y is not None:
            haze = look.haze(t.z) * 0.85
            if haze > 0.01:
                rgba[:3] *= 1.0 - haze
                rgba[:3] += column(tuple(q * haze for q in self.haze_colour)) * alpha
            if self.wet is not None and r0 + h > self.r0:
                self._mirror(t, card, cols)
        image = self.image[:, rows, cols]
        image *= 1.0 - alpha
        image += rgba[:3]
        np.copyto(self.instance[rows, cols], k, where=mine)
        np.copyto(self.segment[rows, cols], _LIT[t.kind], where=mine)
        np.copyto(self.depth[rows, cols], z, where=mine)
        tall = TOP if y is None else np.minimum(y, TOP)
        np.copyto(self.height[rows, cols], tall, where=solid)
        np.copyto(self.front[rows, cols], z, where=solid)

    def gone(self, t: Thing) -> bool:
        """Is a thing wholly under water?"""
        return not t.floats and t.kind not in IN_SKY and t.foot + t.h <= self.level + 0.08

    def _mirror(self, t: Thing, card: Card, cols: slice) -> None:
        """The window upside down about its waterline, into whatever water lies in front of it."""
        s, n = self.s, self.g.size
        line = (s.horizon + (s.camera - self.level) / t.z) * n
        h = card.rgba.shape[1]
        # Target row r (centre r + 0.5) shows source row 2 * line - r - 1; both clipped to what
        # exists.
        far = 2.0 * line - 1.0
        top = max(int(math.floor(far - (card.r0 + h - 1))), self.r0, int(math.floor(line - 0.5)))
        end = min(int(math.ceil(far - card.r0)) + 1, n)
        if top >= end:
            return
        wet = self.wet[top - self.r0 : end - self.r0, cols]
        if not wet.any():
            return
        src = far - np.arange(top, end) - card.r0
        k = np.floor(src).astype(np.int64)
        f = (src - k).astype(_f)[:, None]
        padded = np.zeros((4, h + 2, card.rgba.shape[2]), _f)
        padded[:, 1:-1] = card.rgba
        a = padded.take(np.minimum(np.maximum(k + 1, 0), h + 1), axis=1)
        b = padded.take(np.minimum(np.maximum(k + 2, 0), h + 1), axis=1)
        b -= a
        b *= f
        a += b
        m = wet * (self.fresnel[top - self.r0 : end - self.r0] * 0.85)
        a *= m
        image = self.image[:, top:end, cols]
        image *= 1.0 - a[3]
        image += a[:3]

    def _lights(self) -> None:
        """Glow around lamps and headlights after dark."""
        s, g = self.s, self.g
        for t in s.things:
            if t.kind == "lamp":
                x, y, reach, power, c = (
                    t.x + t.parts[0] * 0.39,
                    t.foot + t.h - 0.2,
                    1.5,
                    0.4,
                    t.accent,
                )
            elif t.kind == "car" and t.variant:
                c = (1.0, 0.95, 0.8) if t.variant == 2 else (0.9, 0.15, 0.1)
                x, y, reach, power = t.x, t.foot + 0.46 * t.h, 1.6, 0.35 if t.variant == 2 else 0.2
                if y < self.level:
                    continue
            else:
                continue
            u, v, r = s.axis + x / t.z, s.horizon + (s.camera - y) / t.z, reach / t.z
            r0, r1, c0, c1 = self._window(u - r, v - r, u + r, v + r)
            if r0 >= r1 or c0 >= c1:
                continue
            dx, dy = (g.u[:, c0:c1] - u) * (1 / r), (g.v[r0:r1] - v) * (1 / r)
            k = 1.0 - (dx * dx + dy * dy)
            np.maximum(k, 0.0, out=k)
            k *= k
            k *= power
            image = self.image[:, r0:r1, c0:c1]
            image += column(c) * k

    def pixels(self) -> np.ndarray:
        """The picture as uint8 [S, S, 3]."""
        a = self.image
        a *= 255.0
        a += 0.5
        np.maximum(a, 0.0, out=a)
        np.minimum(a, 255.0, out=a)
        return np.ascontiguousarray(a.astype(np.uint8).transpose(1, 2, 0))
