"""The cues of a listing that nobody cares for: breakage, dirt, vermin, rain, cold or harsh light."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from vitrine.demo.drawing.pen import Sprite
from vitrine.demo.drawing.props import Props, draw_crack, draw_fly, draw_stain, pick_colour
from vitrine.demo.drawing.scene import Cue, Scene, apply_gains, cue, glow
from vitrine.demo.drawing.shapes import BLACK, WHITE, Colour, Point, blot_points, mix, smooth

NEGATIVE_CUES: list[Cue] = []


@cue(NEGATIVE_CUES, "before")
def _broken_part(scene: Scene) -> None:
    """Bites a jagged piece out of the product; its shards lie in front."""
    colour = scene.sprite.colour.copy()
    left, top, right, bottom = colour.getbbox() or (0, 0, *colour.size)
    side = int(scene.rng.integers(2))
    x, y = (right if side else left), top + (bottom - top) * scene.uniform(0.05, 0.5)
    reach = 0.42 * scene.visibility * min(right - left, bottom - top)
    jags = blot_points(x, y, reach * scene.rng.uniform(0.6, 1.15, 15))
    alpha = colour.getchannel("A")
    ImageDraw.Draw(alpha).polygon(jags, 0)
    fill = colour.resize((1, 1), Image.Resampling.BOX, (left, top, right, bottom)).getpixel((0, 0))
    colour.putalpha(alpha)
    scene.sprite = Sprite(colour, scene.sprite.relief)
    if isinstance(fill, tuple):
        scene.cues.append(Cue("front", lambda front: _scatter_shards(front, fill)))


def _scatter_shards(scene: Scene, fill: tuple[float, ...]) -> None:
    props, camera = Props(scene.size), scene.camera
    for number in range(9):
        x, y = camera.x + scene.uniform(-38, 38), camera.floor + scene.uniform(0, 9)
        angles = np.sort(scene.rng.uniform(0, math.tau, 4))
        radius = scene.uniform(1.5, 4)
        shard = [(x + radius * math.cos(a), y + 0.6 * radius * math.sin(a)) for a in angles]
        red, green, blue = (round(channel) for channel in fill[:3])
        props.shape([(a + 0.5, b + 0.8) for a, b in shard], BLACK)
        props.shape(shard, mix((red, green, blue), BLACK if number % 2 else WHITE, 0.25))
    props.lay_on(scene.picture)


@cue(NEGATIVE_CUES, "before")
def _toppled(scene: Scene) -> None:
    camera = scene.camera
    camera.degrees = scene.visibility * scene.uniform(16, 32) * (1 if scene.rng.random() < 0.5 else -1)
    camera.x += scene.visibility * scene.uniform(10, 20) * (1 if scene.rng.random() < 0.5 else -1)


@cue(NEGATIVE_CUES, "behind")
def _mould(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(3):
        x, y, spread = scene.uniform(0, 100), scene.uniform(0, 45), scene.uniform(5, 11)
        for across, down, size in scene.rng.normal(0, 1, (45, 3)):
            radius = 0.5 + 1.1 * abs(float(size))
            fill = mix((86, 98, 60), BLACK, scene.uniform(0.2, 0.7))
            props.oval(x + spread * float(across), y + spread * float(down), radius * 1.2, radius, fill, 0.7)
    props.lay_on(scene.picture, blur=0.4)


@cue(NEGATIVE_CUES, "behind")
def _dripping_wall(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(int(scene.rng.integers(7, 12))):
        x, long, wide = scene.uniform(0, 100), scene.uniform(20, 68), scene.uniform(0.8, 2.4)
        fill = mix((88, 66, 38), BLACK, scene.uniform(0, 0.5))
        run = [(x - wide * 1.6, -1), (x + wide * 1.6, -1), (x + wide * 0.5, long), (x - wide * 0.5, long)]
        props.shape(run, fill, 0.6)
        props.oval(x, long, wide * 0.8, wide * 1.3, fill, 0.75)
    props.lay_on(scene.picture, blur=0.4)


@cue(NEGATIVE_CUES, "behind")
def _cracked_wall(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(3):
        draw_crack(props, scene.uniform(5, 95), scene.uniform(5, 50), scene.uniform(17, 26), scene.rng)
    props.lay_on(scene.picture)


@cue(NEGATIVE_CUES, "behind")
def _cobweb(scene: Scene) -> None:
    props, corner = Props(scene.size), 0.0 if scene.rng.random() < 0.5 else 100.0
    inward, reach = (1 if corner == 0 else -1), scene.uniform(40, 56)
    spokes = [math.radians(angle) for angle in (-2, 16, 33, 50, 68, 92)]
    silk: Colour = (225, 226, 228)
    ends = [(inward * reach * math.cos(a), reach * math.sin(a)) for a in spokes]
    for x, y in ends:
        props.line([(corner, 0), (corner + x, y)], 0.7, silk, 0.9)
    for ring in (0.25, 0.42, 0.6, 0.78, 0.95):
        sags = [ring * (0.9 if spoke % 2 else 1) for spoke in range(len(ends))]
        thread = [(corner + x * sag, y * sag) for (x, y), sag in zip(ends, sags, strict=True)]
        props.line(thread, 0.6, silk, 0.9)
    props.oval(corner + inward * reach * 0.5, reach * 0.5, 2.6, 3.2, BLACK)
    props.lay_on(scene.picture)


@cue(NEGATIVE_CUES, "behind")
def _torn_box(scene: Scene) -> None:
    side = 1 if scene.rng.random() < 0.5 else -1
    centre, low = scene.camera.x + side * 29, scene.camera.floor + 2
    card: Colour = (178, 134, 86)
    inside, flap, props = mix(card, BLACK, 0.55), mix(card, WHITE, 0.22), Props(scene.size)

    def at(*points: Point) -> list[Point]:
        return [(centre + side * x, low + y) for x, y in points]

    props.shape(at((-16, -26), (-9, -33), (22, -33), (16, -26)), inside)
    props.shape(at((16, 0), (16, -26), (22, -33), (23, -20), (20, -15), (22, -4)), mix(card, BLACK, 0.3))
    ragged = [(16 - 4 * i, -26 + (scene.uniform(2, 9) if i % 2 else 0)) for i in range(9)]
    props.shape(at((-16, 0), (16, 0), *ragged), card)
    props.shape(at((16, -26), (22, -33), (32, -27), (29, -24), (27, -19), (24, -22)), flap)
    props.shape(at((-16, -26), (-9, -33), (-19, -40), (-21, -36), (-26, -35)), flap)
    hole = at((-7, -4), (-3, -13), (-6, -17), (2, -16), (6, -19), (5, -11), (9, -6), (1, -8))
    props.shape(hole, inside)
    props.shape([hole[0], hole[1], *at((-9, -10))], flap)
    props.lay_on(scene.picture)


@cue(NEGATIVE_CUES, "front")
def _cracks(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(2):
        draw_crack(props, *scene.on_product(), scene.uniform(16, 24), scene.rng)
    props.lay_on(scene.picture, inside=scene.mask)


@cue(NEGATIVE_CUES, "front")
def _stains(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(5):
        draw_stain(props, *scene.on_product(), scene.uniform(5, 10), scene.rng)
    props.lay_on(scene.picture, blur=0.3, inside=scene.mask)


@cue(NEGATIVE_CUES, "front")
def _flies(scene: Scene) -> None:
    props = Props(scene.size)
    for number in range(int(scene.rng.integers(7, 12))):
        at = scene.on_product() if number % 3 == 0 else (scene.uniform(5, 95), scene.uniform(5, 90))
        draw_fly(props, *at, scene.uniform(2.8, 4.6), scene.rng)
    props.lay_on(scene.picture)


@cue(NEGATIVE_CUES, "front")
def _rain(scene: Scene) -> None:
    props, lean = Props(scene.size), scene.uniform(-5, 5)
    for x, y, far in scene.rng.uniform(0, 1, (110, 3)):
        top = (float(x) * 110 - 5, float(y) * 110 - 10)
        end = (top[0] + lean * (0.5 + float(far)), top[1] + 7 + 7 * float(far))
        props.line([top, end], 0.35 + 0.4 * float(far), (206, 218, 232), 0.4 + 0.35 * float(far))
    props.lay_on(scene.picture)


@cue(NEGATIVE_CUES, "front")
def _spill(scene: Scene) -> None:
    props, camera = Props(scene.size), scene.camera
    fill = pick_colour(((52, 36, 28), (58, 64, 30), (40, 38, 44)), scene.rng)
    reaches = 46 * scene.rng.uniform(0.6, 1.0, 11)
    outline = blot_points(camera.x, camera.floor + 5, reaches, flat=0.2)
    props.shape(smooth(outline), fill, 0.9)
    for _ in range(8):
        x, y = scene.uniform(3, 97), camera.floor + scene.uniform(0, 12)
        props.oval(x, y, scene.uniform(0.8, 2.4), 0.8, fill, 0.9)
    props.lay_on(scene.picture)


@cue(NEGATIVE_CUES, "tone")
def _vignette(scene: Scene) -> None:
    falloff = Image.radial_gradient("L").resize(scene.picture.size, Image.Resampling.BILINEAR)
    dark = scene.picture.point(lambda value: value * 0.12)
    steep = [min(255, max(0, (level - 70) * 2)) for level in range(256)]
    scene.picture.paste(dark, (0, 0), falloff.point(steep))


@cue(NEGATIVE_CUES, "tone")
def _cold_light(scene: Scene) -> None:
    scene.picture = ImageEnhance.Color(scene.picture).enhance(0.35)
    apply_gains(scene, (0.82, 0.95, 1.1))


@cue(NEGATIVE_CUES, "tone")
def _sickly_light(scene: Scene) -> None:
    scene.picture = ImageEnhance.Color(scene.picture).enhance(0.5)
    apply_gains(scene, (0.93, 1.04, 0.68))


@cue(NEGATIVE_CUES, "tone")
def _harsh_flash(scene: Scene) -> None:
    at = scene.uniform(32, 68), scene.uniform(25, 60)
    scene.picture = ImageEnhance.Color(scene.picture).enhance(0.6).point(lambda value: value * 0.6)
    for radius, colour in ((60, (110, 118, 126)), (30, (225, 234, 245)), (15, (255, 255, 255))):
        glow(scene, at, radius, colour)


@cue(NEGATIVE_CUES, "tone")
def _grain(scene: Scene) -> None:
    """A sensor in the dark: coarse, mostly grey noise."""
    coarse = scene.rng.normal(0, 16, (scene.size // 2 + 1, scene.size // 2 + 1, 1))
    tinted = coarse + scene.rng.normal(0, 6, (*coarse.shape[:2], 3))
    grain = tinted.repeat(2, axis=0).repeat(2, axis=1)[: scene.size, : scene.size]
    pixels = np.asarray(scene.picture, dtype=np.float32) * 0.8 + grain
    scene.picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
