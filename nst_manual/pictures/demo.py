"""Two pictures that the demo draws: a mountain lake as content and a swirling painting as style.

The random seeds are fixed, so a drawing is the same each time; the composition scales with the requested size.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from ..arrays import Array
from .writing import to_picture

Shape = tuple[Array, ArrayLike]  # a filled polygon: corners (n, 2) in pixels, and its RGB colour in 0..1

HORIZON = 0.58  # the far shore line, as a fraction of the picture height
SUN = (0.13, 0.30)  # fractions of width and height
NEAREST, FARTHEST = 1.0, 4.2  # the depths between which the scene has mountains
REACH = 2.4  # how far the mountains extend to either side
FAR_PEAKS = ((0.50, 2.5, 0.50, 0.75), (-0.62, 3.3, 0.46, 0.8), (1.75, 3.1, 0.52, 0.8), (-1.9, 3.0, 0.42, 0.7))
NEAR_PEAKS = ((-0.95, 1.9, 0.20, 0.6), (0.95, 1.8, 0.18, 0.5))  # each across, deep, tall, wide

# Positions in the painting are fractions of width and height; radii are fractions of the mean side.
DISCS = ((0.20, 0.20, 0.105), (0.59, 0.14, 0.060), (0.87, 0.24, 0.085), (0.65, 0.40, 0.042))
SWIRLS = ((0.45, 0.33, 0.20, 1.0), (0.82, 0.52, 0.13, -1.0), (0.10, 0.50, 0.14, 1.0))  # last: turn
ULTRAMARINE, COBALT, TURQUOISE = (0.09, 0.11, 0.42), (0.10, 0.29, 0.68), (0.22, 0.62, 0.70)
CREAM, GOLD, OCHRE = (0.97, 0.92, 0.72), (0.96, 0.74, 0.18), (0.76, 0.49, 0.13)
VERMILION, VIRIDIAN = (0.86, 0.25, 0.12), (0.10, 0.36, 0.30)


def scene(width: int, height: int) -> Image.Image:
    """Draw a photograph-like mountain lake in late light, with a sailing boat, a cabin, firs and a meadow."""
    horizon = round(HORIZON * height)
    picture = _with_mountains(_sky(width, height), horizon)
    picture = _over(picture, _rasterise(_far_shore(width, height, horizon), width, height))
    ripples = _ripples(width, height - horizon)
    picture = _with_lake(picture, ripples, horizon)
    picture = _with_boat(picture, ripples, horizon)
    picture = _over(picture, _rasterise(_near_shore(width, height), width, height))
    return _developed(picture)


def painting(width: int, height: int) -> Image.Image:
    """Draw a windy evening in thick brush strokes that swirl round glowing discs above a golden field."""
    unit = float(np.sqrt(width * height))
    extent = np.array([width, height]) / unit
    rng = RandomState(7)
    # Drawing on RGBA replaces all four channels, so the alpha channel can carry the thickness of the paint.
    canvas = Image.new("RGBA", (2 * width, 2 * height), (20, 30, 70, 90))
    draw = ImageDraw.Draw(canvas)
    for x, y, radius in DISCS:  # strokes circle the centre and may leave a gap there
        draw.circle((2 * x * width, 2 * y * height), 2 * radius * unit, fill=(*_bytes(GOLD), 90))
    for count, length, breadth in ((900, 0.21, 0.034), (2600, 0.135, 0.019), (2600, 0.07, 0.010)):
        starts = _scattered(count, extent, rng)
        paths = _trace(starts, length * rng.uniform(0.6, 1.2, count), extent)
        colours = _stroke_colours(starts, extent, rng)
        for path, colour in zip(paths, colours, strict=True):
            _stroke(draw, path * 2 * unit, colour, breadth * unit * rng.uniform(0.75, 1.25), rng)
    return _lit_relief(canvas.resize((width, height), Image.Resampling.BOX))


# Shared helpers


def _mix(first: ArrayLike, second: ArrayLike, amount: ArrayLike) -> Array:
    """Blend colours (last axis RGB); `amount` has no colour axis."""
    start = np.asarray(first, dtype=np.float64)
    return np.asarray(start + (np.asarray(second) - start) * np.asarray(amount)[..., None])


def _over(picture: Array, layer: Array) -> Array:
    return _mix(picture, layer[..., :3], layer[..., 3])


def _step(low: float, high: float, value: Array) -> Array:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _noise(height: int, width: int, cells: float, octaves: int, seed: int, stretch: float = 1.0) -> Array:
    """Make fractal noise around 0; `cells` lattice cells span the mean side, `stretch` widens them."""
    total = np.zeros((height, width))
    unit = np.sqrt(width * height)
    for octave in range(octaves):
        across = cells * 2**octave / unit
        lattice = (2 + int(across * height), 2 + int(across * width / stretch))
        values = RandomState(seed + octave).uniform(-1, 1, lattice).astype(np.float32)
        smooth = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(smooth, dtype=np.float64) * 0.5**octave
    return total


def _sample(values: Array, rows: Array, columns: Array) -> Array:
    """Look up (rows, columns, channels) bilinearly; the border continues outside the array."""
    rows = np.clip(rows, 0, values.shape[0] - 1.001)
    columns = np.clip(columns, 0, values.shape[1] - 1.001)
    r, c = rows.astype(np.intp), columns.astype(np.intp)
    top = _mix(values[r, c], values[r, c + 1], columns - c)
    return _mix(top, _mix(values[r + 1, c], values[r + 1, c + 1], columns - c), rows - r)


def _bytes(colour: ArrayLike) -> tuple[int, ...]:
    return tuple(np.clip(np.asarray(colour) * 255, 0, 255).astype(int).tolist())


def _rasterise(shapes: Iterable[Shape], width: int, height: int) -> Array:
    """Draw the shapes enlarged and shrink the result, which smooths their edges; RGBA in 0..1."""
    factor = 3 if max(width, height) <= 1024 else 2
    layer = Image.new("RGBA", (width * factor, height * factor), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for points, colour in shapes:
        draw.polygon((points * factor).ravel().tolist(), fill=(*_bytes(colour), 255))
    return np.asarray(layer.resize((width, height), Image.Resampling.BOX), dtype=np.float64) / 255


# Scene


def _sky(width: int, height: int) -> Array:
    x, y = (np.arange(width)[None, :] + 0.5) / width, (np.arange(height)[:, None] + 0.5) / height
    up = np.clip(1 - y / HORIZON, 0, 1) + 0 * x
    sky = _mix((0.97, 0.78, 0.58), (0.55, 0.70, 0.84), _step(0.0, 0.6, up))
    sky = _mix(sky, (0.20, 0.40, 0.68), _step(0.35, 1.2, up))

    puffs = _noise(height, width, 4.5, 7, seed=240, stretch=2.2)
    density = _step(-0.15, 0.65, puffs)
    # A cloud is bright where it thins out towards the sun, and grey in the lee of its own thickness.
    towards_sun = np.maximum(np.arange(width) - max(1, round(0.025 * width)), 0)
    lit = 0.62 + 0.9 * (puffs - puffs[:, towards_sun]) - 0.25 * density
    clouds = _mix((0.56, 0.55, 0.66), (1.0, 0.94, 0.85), np.clip(lit, 0, 1))
    sky = _mix(sky, clouds, 0.9 * density * _step(0.05, 0.4, up))

    distance = np.hypot((x - SUN[0]) * width, (y - SUN[1]) * height) / np.sqrt(width * height)
    sky = _mix(sky, (0.98, 0.80, 0.62), 0.5 * np.exp(-((distance / 0.45) ** 2)))
    # Glare adds to the light that is there; mixing alone would turn blue and yellow into olive.
    sky += np.exp(-distance / 0.11)[..., None] * np.array([0.75, 0.52, 0.22])
    return _mix(np.minimum(sky, 1), (1.0, 1.0, 0.95), _step(0.040, 0.030, distance))


def _terrain(size: int) -> Array:
    """Make a square of ground, its near edge in row 0; channels: height, sunlight, flatness."""
    x, z = np.linspace(-REACH, REACH, size)[None, :], np.linspace(NEAREST, FARTHEST, size)[:, None]
    ridges, weight = np.zeros((size, size)), np.ones((size, size))
    for octave in range(8):
        folds = _noise(size, size, 5 * 2**octave, 1, seed=190 + octave)
        crest = (1 - np.sqrt(folds**2 + 0.004)) ** 2
        ridges += crest * weight * 0.53**octave
        weight = np.clip(crest * weight * 1.6, 0, 1)  # detail gathers on the crests, as on eroded rock
    mass = np.full((size, size), 0.04)
    for px, pz, tall, wide in FAR_PEAKS + NEAR_PEAKS:
        mass += tall * np.exp(-1.6 * np.sqrt((x - px) ** 2 + (z - pz) ** 2 + 0.01) / wide)
    ground = mass * (0.45 + 0.42 * ridges) * (0.25 * _step(1.0, 1.15, z) + 0.75 * _step(1.1, 2.3, z))

    spacing = 2 * REACH / size
    dz, dx = np.gradient(ground, (FARTHEST - NEAREST) / size, spacing)
    flatness = 1 / np.sqrt(1 + dx**2 + dz**2)
    facing = (0.90 * dx + 0.10 * dz + 0.33) * flatness
    # The sun stands on the left: the ray that grazes the highest ground so far passes above points in shadow.
    fall = 0.36 * spacing * np.arange(size)[None, :]
    ray = np.maximum.accumulate(ground + fall, axis=1) - fall
    sunlight = np.clip(facing, 0, 1) * _step(0.03, 0.0, ray - ground)
    return np.dstack([ground, sunlight, flatness])


def _with_mountains(picture: Array, horizon: int) -> Array:
    """Look across the terrain: for every pixel above the horizon find the first ground its ray meets."""
    height, width = picture.shape[:2]
    factor = 2 if max(width, height) <= 1024 else 1
    columns, rows = width * factor, horizon * factor
    terrain = _terrain(min(max(640, 2 * max(width, height)), 1400))
    bearing = np.linspace(-0.56, 0.56, columns)[None, :]

    def at(depth: Array) -> Array:
        row = (depth - NEAREST) / (FARTHEST - NEAREST) + 0 * bearing
        column = (bearing * depth + REACH) / (2 * REACH)
        return _sample(terrain, row * (len(terrain) - 1), column * (len(terrain) - 1))

    depths = np.linspace(NEAREST, FARTHEST, 500)
    skyline = np.maximum.accumulate(at(depths[:, None])[..., 0] / depths[:, None], axis=0)
    elevation = (rows - np.arange(rows) - 0.5) / (2.35 * min(height, 0.9 * width) * factor)
    depth = np.stack([np.interp(elevation, line, depths, right=np.inf) for line in skyline.T], axis=1)
    visible = np.isfinite(depth)
    depth[~visible] = FARTHEST

    tall = elevation[:, None] * depth
    haze = _mix((0.98, 0.80, 0.60), (0.60, 0.68, 0.80), _step(-0.56, 0.22, bearing))
    fog = 1 - np.exp(-0.42 * (depth - NEAREST) * np.exp(-2.5 * tall))
    land = np.dstack([_mix(_ground_colour(tall, at(depth)), haze, fog), visible])
    result = picture.copy()
    result[:horizon] = _over(result[:horizon], land.reshape(horizon, factor, width, factor, 4).mean((1, 3)))
    return result


def _ground_colour(tall: Array, terrain: Array) -> Array:
    """Forest below, bare rock above it, snow on top where it is not too steep; warm light, blue shade."""
    light, flatness = terrain[..., 1], terrain[..., 2]
    rows, columns = tall.shape
    grain = _noise(rows, columns, 30, 4, seed=70)
    trees = _noise(rows, columns, 130, 2, seed=75, stretch=0.6)
    in_forest = np.clip(0.15 + light * (0.9 + 0.9 * trees), 0, 1)
    forest = _mix((0.03, 0.08, 0.09), (0.36, 0.38, 0.13), in_forest)
    rock = _mix((0.17, 0.18, 0.27), (0.88, 0.62, 0.42), np.clip(1.1 * light * (1 + 0.3 * grain), 0, 1))
    snow = _mix((0.30, 0.41, 0.64), (1.0, 0.92, 0.77), np.clip(1.45 * light, 0, 1))
    colour = _mix(forest, rock, _step(0.075, 0.125, tall + 0.03 * grain + 0.01 * trees))
    return _mix(colour, snow, _step(0.23, 0.27, tall + 0.025 * grain + 0.32 * (flatness - 0.66)))


def _fir(x: float, base: float, size: float, tiers: int, rng: RandomState) -> Iterator[Shape]:
    """One fir: tiers of drooping branches from the ground up, lit from the left."""
    half = 0.02 * size
    yield np.array([(x - half, base), (x, base - size), (x + half, base)]), (0.09, 0.07, 0.06)
    for share in np.arange(tiers) / tiers:
        reach = size * (0.19 * (1 - share) ** 0.8 + 0.008) * rng.uniform(0.75, 1.1)
        thick = size * (0.045 * (1 - share) / tiers**0.5 + 0.13 / tiers)
        for side in rng.permutation(np.linspace(-1, 1, 15)) + rng.uniform(-0.1, 0.1, 15):
            y = base - size * (0.04 + 0.94 * share + rng.uniform(-0.9, 0.9) / tiers)
            tip = side * reach * rng.uniform(0.6, 1.1)
            end = y + size * 0.08 * (1 - 0.7 * share) * rng.uniform(0.2, 1.2)
            branch = [(x, y - thick), (x + tip, end), (x + 0.6 * tip, end + 0.3 * thick), (x, y + thick)]
            glow = np.clip(0.38 - 0.40 * side + rng.uniform(-0.35, 0.35), 0, 1) ** 1.8
            yield np.array(branch), _mix((0.03, 0.07, 0.07), (0.42, 0.40, 0.17), glow)


def _placed(x: float, base: float, size: float, colour: ArrayLike, *corners: ArrayLike) -> Shape:
    """Put a part of an object, given in units of its size and with y upwards, into the picture."""
    return np.array([x, base]) + size * np.array(corners) * (1, -1), colour


def _far_shore(width: int, height: int, horizon: int) -> Iterator[Shape]:
    """Trees along the water and a cabin before them."""
    rng = RandomState(3)
    size = min(height, width)
    for x in np.linspace(-0.02, 1.02, 110) + rng.uniform(-0.008, 0.008, 110):
        clump = 0.55 + 0.45 * np.sin(9 * x + 1.0) * np.sin(23 * x)
        yield from _fir(x * width, horizon + 1, size * (0.022 + 0.05 * clump * rng.uniform(0.5, 1)), 6, rng)
    place = 0.275 * width, horizon + 1.0, 0.085 * size
    wall, roof, window = (0.45, 0.34, 0.30), (0.66, 0.20, 0.13), (1.0, 0.82, 0.42)
    yield _placed(*place, (0.32, 0.36, 0.17), (-0.7, 0), (-0.4, 0.07), (1.3, 0.07), (1.7, 0))
    yield _placed(*place, (0.95, 0.80, 0.60), (0, 0.03), (0, 0.4), (0.22, 0.72), (0.44, 0.4), (0.44, 0.03))
    yield _placed(*place, wall, (0.44, 0.03), (0.44, 0.42), (1.1, 0.42), (1.1, 0.03))
    yield _placed(*place, wall, (0.75, 0.6), (0.75, 0.88), (0.86, 0.88), (0.86, 0.6))
    yield _placed(*place, roof, (0.2, 0.78), (0.92, 0.78), (1.18, 0.38), (0.46, 0.38))
    yield _placed(*place, (0.85, 0.36, 0.22), (0.2, 0.78), (-0.06, 0.38), (0.0, 0.36), (0.22, 0.70))
    yield _placed(*place, window, (0.55, 0.15), (0.55, 0.31), (0.68, 0.31), (0.68, 0.15))
    yield _placed(*place, window, (0.82, 0.15), (0.82, 0.31), (0.95, 0.31), (0.95, 0.15))


def _ripples(width: int, rows: int) -> Array:
    """Slope of the water below the horizon; the waves shrink with distance as in perspective."""
    waves = _noise(900, 1400, 90, 3, seed=90, stretch=1.6)
    distance = 1 / ((np.arange(rows)[:, None] + 0.5) / rows + 0.07)
    across = ((np.arange(width)[None, :] + 0.5) / width - 0.5) * distance
    away = distance * 250 % 899
    return _sample(waves[..., None], away + 0 * across, (across / 14.5 + 0.5) * 1399)[..., 0]


def _with_lake(picture: Array, ripples: Array, horizon: int) -> Array:
    height, width = picture.shape[:2]
    below, columns = np.arange(height - horizon)[:, None], np.arange(width)[None, :]
    near = below / (height - horizon)
    # A tilted wavelet mirrors a point higher or lower than flat water would, the more so the closer it is.
    wobble = ripples * height * (0.006 + 0.05 * near)
    water = _sample(picture[:horizon], horizon - 1 - below - wobble, columns + 0.12 * wobble)
    water = _mix(water, (0.03, 0.15, 0.22), np.clip(0.16 + 0.42 * near + 0.10 * ripples, 0, 1))
    sun_path = np.exp(-(((columns / width - SUN[0]) / (0.03 + 0.10 * near)) ** 2))
    water = _mix(water, (1.0, 0.88, 0.62), sun_path * (0.12 + 0.88 * _step(0.15, 0.8, ripples)))
    water = _mix(water, (0.75, 0.72, 0.66), 0.35 * np.exp(-below / (0.006 * height)))
    return np.concatenate([picture[:horizon], water])


def _with_boat(picture: Array, ripples: Array, horizon: int) -> Array:
    height, width = picture.shape[:2]
    base = round(0.715 * height)
    layer = _rasterise(_boat(0.50 * width, base, 0.27 * min(height, width)), width, height)
    below = np.arange(height - base)[:, None]
    wobble = ripples[base - horizon :] * height * 0.01
    mirror = _sample(layer, base - 1 - below - 1.2 * wobble, np.arange(width)[None, :] + wobble)
    mirror[..., 3] *= 0.75 * np.exp(-below / (0.25 * height))
    return _over(np.concatenate([picture[:base], _over(picture[base:], mirror)]), layer)


def _boat(x: float, base: float, size: float) -> Iterator[Shape]:
    def sail(foot: ArrayLike, top: ArrayLike, end: ArrayLike, bulge: float) -> list[ArrayLike]:
        t = np.linspace(0, 1, 12)
        edge = np.array(top) + np.outer(t, np.array(end) - top) + np.outer(np.sin(np.pi * t), [bulge, 0])
        return [foot, *edge]

    place = x, base, size
    yield _placed(*place, (0.20, 0.12, 0.08), (-0.012, 0.05), (-0.006, 1), (0.006, 1), (0.012, 0.05))
    for share in np.linspace(0, 1, 8):  # strips from the outer edge to the mast make the sails look filled
        main = sail((-0.02, 0.17), (-0.02, 0.97), (-0.33 + 0.26 * share, 0.16), -0.05 * (1 - share))
        yield _placed(*place, _mix((1.0, 0.97, 0.88), (0.78, 0.70, 0.66), share), *main)
        jib = sail((0.025, 0.19), (0.02, 0.86), (0.28 - 0.22 * share, 0.17), 0.03 * (1 - share))
        yield _placed(*place, _mix((0.66, 0.22, 0.15), (0.95, 0.52, 0.26), share), *jib)
    yield _placed(*place, (0.62, 0.12, 0.10), (-0.36, 0.11), (0.40, 0.13), (0.27, 0), (-0.28, 0))
    yield _placed(*place, (0.95, 0.90, 0.80), (-0.37, 0.125), (0.42, 0.145), (0.40, 0.115), (-0.355, 0.095))
    yield _placed(*place, (0.30, 0.06, 0.08), (-0.30, 0.035), (0.31, 0.035), (0.27, 0), (-0.28, 0))


def _near_shore(width: int, height: int) -> Iterator[Shape]:
    """Large firs on the right, and a meadow drawn blade by blade from back to front."""
    rng = RandomState(5)
    unit = float(np.sqrt(width * height))
    x = np.linspace(0, 1, 60)
    edge = 0.925 - 0.075 * x**2 + 0.012 * np.sin(7 * x) + 0.004 * np.sin(31 * x)
    bank = np.column_stack([x, edge])
    yield np.vstack([bank, [(1, 1), (0, 1)]]) * (width, height), (0.15, 0.18, 0.08)
    for at, foot, tall in ((0.985, 0.88, 0.62), (0.80, 0.89, 0.40), (0.895, 0.90, 0.72)):
        yield from _fir(at * width, foot * height, tall * min(height, 1.1 * width), 80, rng)
    petals = np.array([(np.cos(a), 0.8 * np.sin(a)) for a in np.linspace(0, 5.24, 6)])
    for row in np.linspace(0, 1, 26):
        for at in rng.uniform(-0.01, 1.01, round(190 - 100 * row)):
            crest = float(np.interp(at, x, edge))
            root = np.array([at * width, (crest + (1.03 - crest) * row + 0.006) * height])
            tall = unit * (0.014 + 0.032 * row) * rng.uniform(0.5, 1.3)
            tip = root + tall * np.array([rng.uniform(-0.2, 0.5), -1])
            half = np.array([unit * 0.0014 * (1 + row), 0])
            warm = rng.uniform() ** 1.3 * (1.0 - 0.55 * at)
            colour = _mix((0.08, 0.14, 0.05), (0.80, 0.72, 0.26), warm)
            yield np.array([root - half, tip, root + half]), colour
            if rng.uniform() < 0.035 and at < 0.75:
                bloom = ((0.97, 0.93, 0.85), (0.98, 0.78, 0.20), (0.80, 0.45, 0.75))[rng.randint(3)]
                yield tip + petals * unit * (0.0025 + 0.0035 * row), bloom


def _developed(picture: Array) -> Image.Image:
    """Finish as a photograph: a contrast curve, darker corners and fine grain."""
    height, width = picture.shape[:2]
    picture = np.clip(picture, 0, 1)
    picture = 0.7 * picture + 0.3 * _step(0, 1, picture)
    x, y = np.linspace(-0.5, 0.5, width)[None, :, None], np.linspace(-0.5, 0.5, height)[:, None, None]
    picture = picture * (1 - 0.5 * (x**2 + y**2)) + RandomState(1).normal(0, 0.007, (height, width, 1))
    return to_picture(picture * 255)


# Painting


def _hill_line(x: Array) -> Array:
    return np.asarray(0.665 + 0.05 * np.sin(4.1 * x + 2.2) + 0.02 * np.sin(11 * x))


def _by_place(x: Array, y: Array, sky: Array, hill: Array, field: Array) -> Array:
    """Choose for each point by where it lies: in the sky, on the hills below it or on the field at the bottom."""
    hill_or_sky = np.where((y > _hill_line(x))[:, None], hill, sky)
    return np.where((y > 0.80 + 0.045 * np.sin(5.2 * x + 0.6))[:, None], field, hill_or_sky)


def _heading(angle: Array) -> Array:
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _around(points: Array, x: float, y: float, extent: Array) -> tuple[Array, Array]:
    """Offsets of the points from a centre, and their distances."""
    away = points - np.array([x, y]) * extent
    return away, np.hypot(away[:, 0], away[:, 1]) + 1e-9


def _flow(points: Array, extent: Array) -> Array:
    """Direction of the brush at each point."""
    x, y = (points / extent).T
    sky = _heading(0.35 * np.sin(6 * x + 5 * y) + 0.2 * np.sin(13 * x - 9 * y))
    for cx, cy, radius, turn in SWIRLS:
        away, distance = _around(points, cx, cy, extent)
        force = 3.5 * turn * np.exp(-((distance / radius) ** 2)) / distance
        sky += away[:, ::-1] * (-1, 1) * force[:, None]
    for cx, cy, radius in DISCS:  # blended, not added, so that a disc stays round in any wind
        away, distance = _around(points, cx, cy, extent)
        circling = away[:, ::-1] * (-3, 3) / distance[:, None]
        sky = _mix(sky, circling, np.exp(-((distance / radius / 1.6) ** 6)))
    hill = _heading(0.55 * np.cos(6.0 * x + 1.5 + 9 * y))
    field = _heading(-1.15 + 0.35 * np.sin(9 * x + 6 * y))
    flow = _by_place(x, y, sky, hill, field)
    return np.asarray(flow / (np.hypot(flow[:, 0], flow[:, 1])[:, None] + 1e-9))


def _scattered(count: int, extent: Array, rng: RandomState) -> Array:
    """Points on a jittered grid in random order, which cover the canvas evenly without a visible pattern."""
    columns = max(1, round(float(np.sqrt(count * extent[0] / extent[1]))))
    index = rng.permutation(count)
    cells = np.column_stack([index % columns, index // columns]) + rng.uniform(0, 1, (count, 2))
    # The grid reaches a little beyond the canvas, so that edges and corners get their share of paint.
    return np.asarray((cells / np.array([columns, count / columns]) * 1.08 - 0.04) * extent)


def _trace(starts: Array, lengths: Array, extent: Array) -> Array:
    """Follow the flow both ways from every start; (strokes, points, 2)."""
    forward, backward = [starts], [starts]
    for _ in range(6):
        forward.append(forward[-1] + lengths[:, None] / 12 * _flow(forward[-1], extent))
        backward.append(backward[-1] - lengths[:, None] / 12 * _flow(backward[-1], extent))
    return np.stack(backward[:0:-1] + forward, axis=1)


def _ramp(position: Array, *colours: tuple[float, float, float]) -> Array:
    stops = np.linspace(0, 1, len(colours))
    return np.column_stack([np.interp(position, stops, channel) for channel in zip(*colours, strict=True)])


def _stroke_colours(points: Array, extent: Array, rng: RandomState) -> Array:
    """Choose the paint of a stroke at each point: banded sky, ringed discs, dark hills, gold field."""
    x, y = (points / extent).T
    count = len(points)
    bands = np.sin(15 * y + 4 * np.sin(5 * x + 1) + 2 * x)
    for cx, cy, radius, turn in SWIRLS:
        away, distance = _around(points, cx, cy, extent)
        spiral = np.sin(2 * turn * np.arctan2(away[:, 1], away[:, 0]) + 42 * distance)
        bands += (spiral - bands) * np.exp(-((distance / radius) ** 4))
    bands = 0.5 + 0.5 * bands + rng.normal(0, 0.13, count)
    sky = _ramp(bands, ULTRAMARINE, ULTRAMARINE, COBALT, COBALT, TURQUOISE, TURQUOISE, CREAM)
    for cx, cy, radius in DISCS:
        ring = _around(points, cx, cy, extent)[1] / radius + rng.normal(0, 0.09, count)
        glow = _ramp(ring / 1.6, CREAM, GOLD, GOLD, OCHRE, CREAM, TURQUOISE, COBALT)
        sky = _mix(sky, glow, _step(1.6, 1.25, ring))
    furrows = 0.5 + 0.5 * np.sin(40 * (y - _hill_line(x)) + 5 * x) + rng.normal(0, 0.15, count)
    hill = _ramp(furrows, ULTRAMARINE, VIRIDIAN, VIRIDIAN, TURQUOISE)
    gusts = 0.5 + 0.3 * np.sin(17 * x + 9 * y) + rng.normal(0, 0.2, count)
    field = _ramp(gusts, VIRIDIAN, OCHRE, GOLD, GOLD, GOLD, CREAM)
    field = np.where((rng.uniform(0, 1, count) < 0.09)[:, None], VERMILION, field)
    colours = _by_place(x, y, sky, hill, field)
    return np.clip(colours * rng.normal(1, 0.10, (count, 1)) + rng.normal(0, 0.025, (count, 3)), 0, 1)


def _stroke(draw: ImageDraw.ImageDraw, path: Array, colour: Array, breadth: float, rng: RandomState) -> None:
    """One load of paint: a dark rim, the body, and bristle streaks that run along it."""
    along = np.gradient(path, axis=0)
    normal = along[:, ::-1] * (-1, 1) / (np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9)
    taper = 1 - 0.85 * np.linspace(-1, 1, len(path)) ** 4
    offset = normal * taper[:, None] * breadth
    for reach, shade, thickness in ((1.0, 0.66, 60), (0.86, 1.0, 120)):
        outline = np.vstack([path + reach * offset, (path - reach * offset)[::-1]])
        draw.polygon(outline.ravel().tolist(), fill=(*_bytes(colour * shade), thickness))
    for place in np.linspace(-0.72, 0.72, 6) + rng.uniform(-0.1, 0.1, 6):
        tone = rng.uniform(-1, 1)
        streak = (path + place * offset)[rng.randint(0, 4) : len(path) - rng.randint(0, 5)]
        paint = (*_bytes(colour * (1 + 0.28 * tone) + 0.05 * tone), 150 + int(100 * tone))
        draw.line(streak.ravel().tolist(), fill=paint, width=max(1, round(breadth * rng.uniform(0.12, 0.3))))


def _lit_relief(canvas: Image.Image) -> Image.Image:
    """Light the paint from the top left, taking the alpha channel as its thickness."""
    values = np.asarray(canvas, dtype=np.float64) / 255
    down, right = np.gradient(values[..., 3])
    light = np.clip(1 + 0.55 * (down + right), 0.6, 1.45)
    return to_picture(values[..., :3] * light[..., None] * 255)
