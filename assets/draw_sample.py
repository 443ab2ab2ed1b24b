"""Draw the sample image of the demo: a harbour town in the evening sun.

Everything is computed here from polygons, lines and seeded noise, so the image is wholly the
project's own work; it is released, like the code, under the project's MIT licence.

    python assets/draw_sample.py                        # writes assets/harbour.png, 192x128
    python assets/draw_sample.py --full harbour_hr.png  # and the 768x512 original it is made from

The scene is painted four times larger than the original and antialiased down with Lanczos; the
low-resolution image is the original downscaled by four with Pillow's bicubic filter.
"""
import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, SUPERSAMPLING, DOWNSCALING = 768, 512, 4, 4
WATERLINE, EYE_LEVEL = 338, 300          # where the land meets the water; the height of the viewer's eye
SUNLIT, HALF_LIT = (1.13, 1.02, 0.84), (0.84, 0.78, 0.76)    # the light on faces turned to or off the sun
BRICKS, BOARDS, TILES, STONES = (4.6, 2.3, .13), (400, 2.6, .07), (3.2, 3.4, .16), (11, 5.5, .13)


def tint(colour, factor):
    """The colour times a factor (a number, or one number per channel)."""
    return tuple(int(c) for c in np.clip(np.multiply(colour, factor), 0, 255))


def curve(start, control, end, steps=24):
    """Points of a quadratic Bezier curve."""
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(control) + t ** 2 * np.array(end)


def fractal_noise(rng, height, width, cell, octaves=6):
    """Noise of zero mean and unit deviation; `cell` is the (height, width) of its coarsest features."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        grid = [int(np.ceil(n / c * 2 ** octave)) + 2 for n, c in zip((height, width), cell)]
        values = Image.fromarray(rng.standard_normal(grid).astype(np.float32))
        total += np.asarray(values.resize((width, height), Image.Resampling.BICUBIC)) * 0.55 ** octave
    return (total - total.mean()) / total.std()


def relief_noise(rng, height, width, cell, octaves, step):
    """Fractal noise, and by how much it falls within `step` pixels up and right, towards the sun."""
    noise = fractal_noise(rng, height + step, width + step, cell, octaves)
    here = noise[step:, :-step]
    return here, here - noise[:-step, step:]


class Canvas:
    """A supersampled image, drawn on in the coordinates of the 768x512 image."""

    def __init__(self, pixels):
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        self.mirror = None      # the height to reflect the drawing at, None for drawing it upright

    def scaled(self, points):
        points = np.array(points, dtype=float)
        if self.mirror is not None:
            points[:, 1] = 2 * self.mirror - points[:, 1]
        return [tuple(p) for p in points * SUPERSAMPLING]

    def polygon(self, points, colour):
        self.pen.polygon(self.scaled(points), fill=colour)

    def line(self, points, colour, width=1.0):
        self.pen.line(self.scaled(points), fill=colour, width=max(1, round(width * SUPERSAMPLING)), joint="curve")

    def dot(self, x, y, radius, colour):
        (x, y), = self.scaled([(x, y)])
        r = radius * SUPERSAMPLING
        self.pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def text(self, x, y, text, size, colour):
        font = ImageFont.load_default(size=size * SUPERSAMPLING)
        self.pen.text(self.scaled([(x, y)])[0], text, fill=colour, font=font, anchor="mm")

    def turned(self, x, top, bottom, colour, bulge=0.16, strips=60):
        """A round body between two (height, radius) rings, lit from the right."""
        for t0, t1 in zip(np.linspace(-1, 1, strips + 1)[:-1], np.linspace(-1, 1, strips + 1)[1:]):
            light = 0.42 + 0.68 * max(0, np.cos(np.arcsin((t0 + t1) / 2) - 0.85)) ** 0.8
            ring = [(x + t * r, y + bulge * r * np.sqrt(1 - t * t))
                    for (y, r), pair in ((top, (t0, t1)), (bottom, (t1, t0))) for t in pair]
            self.polygon(ring, tint(colour, np.multiply(light, (1.06, 1.0, 0.92))))


class Face:
    """A flat face in space: `along` and `up` are its axes in the image, `light` is what falls on it."""

    def __init__(self, canvas, origin, along, up, light):
        self.canvas, self.light = canvas, light
        self.origin, self.axes = np.array(origin, dtype=float), np.array([along, up], dtype=float)

    def polygon(self, points, colour):
        self.canvas.polygon(self.origin + np.array(points) @ self.axes, tint(colour[:3], self.light) + colour[3:])

    def rectangle(self, a, b, width, height, colour):
        self.polygon([(a, b), (a + width, b), (a + width, b + height), (a, b + height)], colour)

    def courses(self, rng, span, height, colour, material):
        """Rows of bricks, boards, tiles or stones, with joints; `span(b)` is the (start, end) at height b."""
        unit_width, unit_height, spread = material
        for row, b in enumerate(np.arange(0, height, unit_height)):
            start, end = span(b + unit_height / 2)
            h = min(unit_height, height - b)
            for a in np.arange(start - unit_width / 2 * (row % 2), end, unit_width):
                left, right = max(a, start), min(a + unit_width, end)
                if right > left:
                    unit = tint(colour, 0.92 + 0.12 * b / height + spread * rng.uniform(-1, 1))
                    self.rectangle(left, b, right - left, h, tint(unit, 0.74))
                    self.rectangle(left, b + 0.22 * h, max(0, right - left - 0.45), 0.78 * h, unit)

    def window(self, rng, a, b, width, height):
        glass = (255, 206, 120) if rng.random() < 0.3 else (70, 92, 122)
        self.rectangle(a - 1.2, b - 1.6, width + 2.4, 1.6, (214, 204, 188))
        self.rectangle(a - 0.9, b, width + 1.8, height + 0.9, (246, 240, 228))
        for column, row in np.ndindex(2, 3):
            pane = tint(glass, 0.85 + 0.22 * row + 0.1 * rng.uniform(-1, 1))
            left, bottom = a + (column + 0.08) * width / 2, b + (row + 0.08) * height / 3
            self.rectangle(left, bottom, width * 0.42, height * 0.28, pane)
        self.rectangle(a, b + height * 0.9, width, height * 0.1, (40, 44, 60))


def paint_sky(rng):
    """An evening sky over the whole canvas: a gradient, and clouds lit from the right."""
    height, width = HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING
    y, x = np.linspace(0, HEIGHT, height, dtype=np.float32), np.linspace(0, 1, width, dtype=np.float32)
    stops = np.array([(66, 112, 172), (128, 168, 208), (222, 206, 196), (255, 208, 152), (255, 214, 160)])
    sky = np.stack([np.interp(y, (0, 110, 205, 290, HEIGHT), stops[:, c]) for c in range(3)], -1)[:, None]
    sky = (sky + np.float32([26, 8, -14]) * x[None, :, None] ** 2).astype(np.float32)
    noise, relief = relief_noise(rng, height, width, (70 * SUPERSAMPLING, 230 * SUPERSAMPLING), 8, 8 * SUPERSAMPLING)
    cover = np.clip((noise - 0.15) / 1.6, 0, 1)[..., None] ** 0.8 * 0.9
    lit = np.clip(0.55 + 0.75 * relief, 0, 1)[..., None]
    return sky + cover * (np.float32([168, 150, 170]) * (1 - lit) + np.float32([255, 232, 204]) * lit - sky)


def paint_hill(pixels, rng, profile, roughness, shadow, light, cell):
    """Land from its ridge, given by (x, y) points, down to the waterline; fractal relief, lit from the right."""
    height, width = WATERLINE * SUPERSAMPLING, WIDTH * SUPERSAMPLING
    ridge = np.interp(np.arange(width) / SUPERSAMPLING, *np.transpose(profile)) * SUPERSAMPLING
    ridge = ridge + roughness * SUPERSAMPLING * fractal_noise(rng, 1, width, (1, 60 * SUPERSAMPLING), 7)[0]
    _, relief = relief_noise(rng, height, width, (cell * SUPERSAMPLING * 0.6, cell * SUPERSAMPLING), 7, SUPERSAMPLING)
    lit = np.clip(0.5 + 0.9 * relief, 0, 1)[..., None]
    land = np.arange(height)[:, None] > ridge
    colours = np.float32(shadow) * (1 - lit) + np.float32(light) * lit
    pixels[:height][land] = colours[land]


def draw_tree(canvas, rng, x, y, radius, colour):
    """A round crown of leaf dabs around (x, y), brighter towards the sun."""
    canvas.line([(x, y), (x, y + radius * 1.5)], (66, 50, 40), radius * 0.16)
    for _ in range(int(60 + radius * radius * 1.6)):
        angle, distance = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
        dx, dy = distance * np.cos(angle), distance * np.sin(angle)
        light = 0.78 + 0.34 * dx - 0.36 * dy + rng.uniform(-0.2, 0.2)
        canvas.dot(x + dx * radius, y + dy * radius * 1.1, rng.uniform(0.5, 1.5), tint(colour, light))


def draw_house(canvas, rng, x, base, width, height, depth, wall, roof, material):
    """A gabled house seen from the front left corner (x, base); `height` is that of the eaves."""
    back, rise, half = np.array([0.9, -0.26]), width * 0.52, width / 2
    front = Face(canvas, (x, base), (1, 0), (0, -1), HALF_LIT)
    side = Face(canvas, (x + width, base), back, (0, -1), SUNLIT)
    side.courses(rng, lambda b: (0, depth), height, wall, material)
    side.rectangle(0, height - 4, depth, 4, (70, 50, 70, 110))
    for a in np.arange(5, depth - 8, 13):
        for b in np.arange(9, height - 14, 22):
            side.window(rng, a, b, 6.5, 11)

    def gable(b):
        inset = max(0, b - height) / rise * half
        return inset, width - inset

    front.courses(rng, gable, height + rise, wall, material)
    for b in np.arange(9, height - 8, 22):
        for a in np.linspace(0, width, round(width / 15) + 1)[:-1] + 3.8:
            front.window(rng, a, b, 7.5, 12)
    front.window(rng, half - 4, height + 0.26 * rise, 8, 11)
    front.polygon([(0, height), (half, height + rise), (width, height), (width, height - 3),
                   (half, height + rise - 4), (0, height - 3)], (50, 40, 70, 120))

    slope = np.array([-half - 2.5, -rise * (1 + 2.5 / half)])
    eave = np.array([x + width + 2.5, base - height + rise * 2.5 / half]) - 2 * back
    tiled = Face(canvas, eave, back, slope / np.hypot(*slope), SUNLIT)
    tiled.courses(rng, lambda b: (0, depth + 4), np.hypot(*slope), roof, TILES)
    ridge, left = eave + slope, eave - (width + 5, 0)
    canvas.line([ridge, ridge + back * (depth + 4)], tint(roof, 0.8), 1.4)
    canvas.line([left, ridge, eave], (236, 222, 200), 1.8)

    for face_light, along, a, span in ((HALF_LIT, (1, 0), 0, 7), (SUNLIT, back, 7, 6)):
        corner = ridge + back * depth * 0.5 + (a, 0) + (0, 8)
        stack = Face(canvas, corner, along, (0, -1), face_light)
        stack.courses(rng, lambda b, span=span: (0, span), 18, (168, 96, 76), (2.8, 1.6, .15))
        stack.rectangle(-0.6, 17, span + 1.2, 2.2, (120, 84, 76))


def draw_grove(canvas, rng, places, start, stop, spacing, spread):
    """Trees along the line through `places`, (x, y) points, scattered by up to `spread`."""
    for x in np.arange(start, stop, spacing):
        y = np.interp(x, *np.transpose(places)) + spread * rng.uniform(-1, 1)
        colour = rng.choice([(96, 116, 62), (122, 124, 60), (74, 102, 62), (146, 128, 62)])
        draw_tree(canvas, rng, x + rng.uniform(-5, 5), y, rng.uniform(0.7, 1.3) * spacing, colour)


def draw_town(canvas, rng):
    """Two rows of houses up the hill, trees between them, and the quay in front."""
    cream, ochre, rust, sage = (240, 224, 196), (222, 172, 98), (172, 98, 80), (150, 170, 146)
    blue, white, red, slate = (126, 156, 184), (244, 240, 232), (160, 66, 58), (112, 116, 132)
    tile_red, tile_brown = (176, 96, 72), (142, 88, 72)
    draw_grove(canvas, rng, [(0, 186), (300, 198), (470, 244)], -10, 470, 11, 14)
    draw_grove(canvas, rng, [(470, 262), (540, 318), (585, 336)], 470, 570, 9, 7)
    back_row = [(18, 44, cream, tile_red), (98, 38, rust, slate), (168, 46, white, tile_brown),
                (248, 40, sage, tile_red), (322, 44, ochre, slate), (396, 36, cream, tile_red)]
    for x, width, wall, roof in back_row:
        draw_house(canvas, rng, x, 262 + rng.uniform(-6, 4), width, 44, 44, wall, roof, BOARDS)
    draw_grove(canvas, rng, [(0, 262), (480, 262)], -6, 480, 10, 9)
    front_row = [(-22, 58, ochre, tile_brown, 64, BRICKS), (52, 48, white, tile_red, 72, BOARDS),
                 (118, 52, red, slate, 56, BOARDS), (192, 84, rust, tile_red, 58, BRICKS),
                 (306, 50, blue, tile_brown, 70, BOARDS), (384, 54, cream, tile_red, 54, BRICKS)]
    for x, width, wall, roof, height, material in front_row:
        draw_house(canvas, rng, x, 326, width, height, 46, wall, roof, material)
    for margin, colour in ((0, (240, 226, 190)), (1.4, (26, 48, 84))):
        left, top, right, bottom = 203 + margin, 258 + margin, 265 - margin, 281 - margin
        canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)
    canvas.text(234, 269.5, "MSIT", 19, (250, 238, 208))
    Face(canvas, (-5, WATERLINE), (1, 0), (0, -1), HALF_LIT).courses(
        rng, lambda b: (0, 486 - b / 2), 13, (176, 160, 142), STONES)
    canvas.line([(-5, 325), (482, 325)], (236, 214, 182), 1.6)
    for x in range(14, 480, 42):
        canvas.line([(x, 325), (x, 300)], (38, 40, 48), 1.0)
        canvas.line(curve((x, 301), (x, 294), (x + 6, 296)), (38, 40, 48), 0.7)
        canvas.dot(x + 6, 298, 1.6, (255, 232, 168))


def draw_lighthouse(canvas, rng, x, base):
    """A striped round tower with a gallery and a lantern, and the keeper's house."""
    def radius(y):
        return 13 + 9 * ((y - base + 176) / 176) ** 1.3

    heights = np.linspace(base - 176, base, 8)
    for index in reversed(range(7)):
        ring_above, ring_below = ((y, radius(y)) for y in heights[index:index + 2])
        canvas.turned(x, ring_above, ring_below, (206, 56, 48) if index % 2 else (250, 244, 234))
    for y in heights[1:-2:2]:
        canvas.polygon([(x - 5, y + 17), (x - 5, y + 9), (x - 2.5, y + 6.5), (x, y + 9), (x, y + 17)], (52, 52, 66))
    top = heights[0]
    canvas.turned(x, (top - 18, 8.5), (top, 8.5), (255, 226, 150))
    for dx in (-8.2, -5, 0, 5, 8.2):
        canvas.line([(x + dx, top - 18), (x + dx, top)], (46, 46, 56), 0.8)
    canvas.turned(x, (top - 28, 1.5), (top - 18, 11), (198, 54, 48))
    canvas.line([(x, top - 28), (x, top - 40)], (46, 46, 56), 0.8)
    canvas.turned(x, (top - 1, 18), (top + 3, 15), (92, 90, 98))
    for dx in np.sin(np.linspace(-1.5, 1.5, 13)) * 18:
        canvas.line([(x + dx, top + 1), (x + dx, top - 8)], (40, 42, 52), 0.6)
    for y in (top - 8, top - 4.5):
        canvas.line(curve((x - 18, y), (x, y + 4), (x + 18, y)), (40, 42, 52), 0.7)
    draw_house(canvas, rng, x + 25, base + 6, 30, 26, 34, (244, 238, 226), (190, 84, 60), BOARDS)


def draw_boat(canvas, x, water, size, hull):
    """A sloop under sail with its keel line at height `water`; `size` is the length of the hull."""
    def at(a, b):
        return x + a * size, water - b * size

    bow, stern, mast_top = at(-0.56, 0.17), at(0.46, 0.13), at(-0.06, 1.52)
    deck = curve(bow, at(-0.02, 0.05), stern)
    bottom = curve(at(0.40, 0), at(0, -0.02), at(-0.42, 0))
    canvas.polygon([*deck, *bottom], hull)
    for level, colour in ((0.0, (250, 240, 220)), (0.3, tint(hull, 1.35)), (0.6, tint(hull, 0.7))):
        canvas.line((1 - level) * deck + level * bottom[::-1], colour, size * (0.014 if level else 0.022))
    canvas.polygon([at(-0.2, 0.1), at(-0.16, 0.19), at(0.14, 0.18), at(0.2, 0.09)], (206, 164, 112))
    sails = ((at(-0.04, 1.45), at(-0.04, 0.27), at(0.34, 0.86), at(0.46, 0.26), (250, 232, 206)),
             (at(-0.10, 1.34), at(-0.54, 0.22), at(-0.05, 0.60), at(-0.10, 0.25), (238, 214, 190)))
    for head, tack, belly, clew, colour in sails:
        luff, leech = curve(head, np.add(head, tack) / 2, tack, 40), curve(head, belly, clew, 40)
        for t in np.arange(0, 1, 0.02):
            edge, following = luff + (leech - luff) * t, luff + (leech - luff) * (t + 0.021)
            canvas.polygon([*edge, *following[::-1]], tint(colour, 0.74 + 0.32 * np.sin(0.4 + 1.9 * t)))
        for row in range(6, 40, 6):
            canvas.line([luff[row], leech[row]], tint(colour, 0.78), size * 0.004)
    wood, wire = (112, 74, 50), (44, 42, 50)
    canvas.line([at(-0.07, 0.08), mast_top], wood, size * 0.02)
    canvas.line([at(-0.07, 0.25), at(0.48, 0.235)], wood, size * 0.016)
    for end in (bow, stern, at(-0.18, 0.12), at(0.06, 0.1)):
        canvas.line([mast_top, end], wire, 0.5)
    canvas.polygon([mast_top, at(-0.06, 1.44), at(0.1, 1.49)], (214, 60, 48))


def draw_boats(canvas, reflected):
    """Both boats, or their mirror images in the water."""
    for x, water, size, hull in ((356, 366, 64, (44, 76, 116)), (560, 410, 118, (150, 44, 42))):
        canvas.mirror = water if reflected else None
        draw_boat(canvas, x, water, size, hull)
    canvas.mirror = None


def paint_water(rng, scene):
    """The scene with its lower part replaced by a rippled reflection of the land and the boats."""
    land = scene[:WATERLINE * SUPERSAMPLING]
    mirrored = Canvas(np.concatenate([land, land[::-1]]))
    draw_boats(mirrored, reflected=True)
    y, x = np.mgrid[0:len(scene) - len(land), 0:scene.shape[1]].astype(np.float32) / SUPERSAMPLING
    distance = 1 / (y + WATERLINE - EYE_LEVEL)
    focal, slope, power = 260, np.zeros_like(x), np.zeros_like(x[:, :1])
    for wavelength in np.geomspace(0.02, 3, 36):
        heading, phase = rng.normal(0, 0.3), rng.uniform(0, 2 * np.pi)
        along = ((x - WIDTH / 2) * np.sin(heading) + focal * np.cos(heading)) * distance
        pixels = wavelength / (focal * distance[:, :1] ** 2)      # the wavelength as seen
        weight = np.exp(-np.log(pixels / (3 + 0.07 * y[:, :1])) ** 2 / 1.2)
        slope += weight * np.sin(along * 2 * np.pi / wavelength + phase)
        power += weight ** 2 / 2
    slope /= np.sqrt(power)
    source_y = np.clip(y + slope * (0.8 + 0.045 * y), 0, WATERLINE - 1) + WATERLINE
    source_x = np.clip(x + slope * (0.4 + 0.012 * y), 0, WIDTH - 1)
    source = [(source * SUPERSAMPLING).astype(int) for source in (source_y, source_x)]
    depth = np.clip(0.2 + 0.0022 * y + 0.08 * slope, 0, 0.8)[..., None]
    water = np.asarray(mirrored.image)[tuple(source)] * (1 - depth) + np.float32([22, 58, 84]) * depth
    glint = np.clip(slope - 1.6, 0, 1)[..., None] * np.float32([90, 72, 46])
    return np.concatenate([land, water + glint])


def draw_foreground(canvas, rng):
    """A grassy bank with flowers in the lower left corner, blade by blade."""
    blades = sorted(zip(rng.uniform(-10, 330, 5200), rng.uniform(0, 1, 5200)), key=lambda blade: blade[1])
    for x, t in blades:
        crest = 446 + 0.0006 * max(0, x + 10) ** 2
        y = crest + t * (HEIGHT + 14 - crest)
        length, lean = rng.uniform(8, 20), rng.normal(3, 5)
        colour = tint((128, 136, 58), (rng.uniform(0.45, 1.25), rng.uniform(0.5, 1.15), rng.uniform(0.4, 1.0)))
        canvas.line(curve((x, y), (x + lean * 0.2, y - length * 0.6), (x + lean, y - length), 6), colour, 0.9)
        if rng.random() < 0.02:
            flower = ((250, 236, 220), (236, 110, 70), (250, 200, 80))[rng.integers(3)]
            for angle in np.arange(0, 2 * np.pi, 2 * np.pi / 5):
                canvas.dot(x + lean + 2 * np.cos(angle), y - length + 1.6 * np.sin(angle), 1.4, flower)
            canvas.dot(x + lean, y - length, 1.0, (150, 96, 30))


def draw_scene(seed=7):
    """The whole image, 768x512."""
    rng = np.random.default_rng(seed)
    pixels = paint_sky(rng)
    paint_hill(pixels, rng, [(0, 190), (300, 235), (560, 262), (768, 240)], 9, (128, 134, 160), (206, 176, 166), 60)
    paint_hill(pixels, rng, [(0, 168), (120, 176), (300, 206), (470, 250), (540, 312), (600, 344), (768, 380)], 4,
               (62, 74, 52), (176, 152, 84), 34)
    paint_hill(pixels, rng, [(0, 400), (545, 346), (600, 318), (640, 300), (768, 288)], 2.5,
               (70, 62, 62), (206, 172, 132), 26)
    canvas = Canvas(pixels)
    bare = np.array(canvas.image)
    draw_town(canvas, rng)
    draw_lighthouse(canvas, rng, 672, 306)
    weather = fractal_noise(rng, *bare.shape[:2], (40 * SUPERSAMPLING, 30 * SUPERSAMPLING), 8)[..., None]
    built = np.any(np.asarray(canvas.image) != bare, axis=2, keepdims=True)
    canvas = Canvas(paint_water(rng, np.asarray(canvas.image) * (1 + 0.055 * weather * built)))
    draw_boats(canvas, reflected=False)
    draw_foreground(canvas, rng)
    return canvas.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-full", "--full", metavar="FILE", help="also write the 768x512 original to FILE")
    options = parser.parse_args()
    image = draw_scene()
    if options.full:
        image.save(options.full, optimize=True, quality=92)
    small = image.resize((WIDTH // DOWNSCALING, HEIGHT // DOWNSCALING), Image.Resampling.BICUBIC)
    small.save(Path(__file__).with_name("harbour.png"), optimize=True)


if __name__ == "__main__":
    main()
