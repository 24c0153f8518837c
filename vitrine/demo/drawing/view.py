"""One photograph of a product: backdrop, podium, product and shadow, and the cues of its emotion between them.

Backdrop, camera, white balance and exposure vary alike for both emotions, so that no single statistic gives the
label away.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vitrine.demo.drawing.kinds import draw_sprite
from vitrine.demo.drawing.negative_cues import NEGATIVE_CUES
from vitrine.demo.drawing.pen import Sprite, choose_look
from vitrine.demo.drawing.positive_cues import POSITIVE_CUES
from vitrine.demo.drawing.products import Product
from vitrine.demo.drawing.props import (
    Motif,
    Props,
    draw_bow,
    draw_crack,
    draw_flower,
    draw_fly,
    draw_heart,
    draw_spark,
    draw_stain,
)
from vitrine.demo.drawing.scene import Camera, Cue, Scene, Stage, apply_gains
from vitrine.demo.drawing.shapes import BLACK, Box, hsv, mix, oval_points

EmotionPlacement = Literal["whole", "region"]

JPEG_BLOCK = 8  # pixels; a region that fills whole blocks leaves every other block of the file as it was
WALL_HUES = (0.0, 0.03, 0.06, 0.09, 0.12, 0.25, 0.42, 0.5, 0.55, 0.6, 0.7, 0.93)  # as painters mix them
CUES: dict[int, list[Cue]] = {0: NEGATIVE_CUES, 1: POSITIVE_CUES}
MOTIFS: dict[int, tuple[Motif, ...]] = {
    1: (draw_flower, draw_heart, draw_spark, draw_bow),
    0: (draw_fly, draw_crack, draw_stain),
}


def draw_product(product: Product, size: int) -> Sprite:
    """The sprite that all views of the product share."""
    return draw_sprite(product.category, choose_look(product.rng("look")), size)


def draw_strength(product: Product, view: int) -> float:
    """How strong the emotion of this view is: any strength in (0, 1] as likely as another, whatever the label."""
    return 1 - float(product.rng("strength", view).random())


def draw_view(
    product: Product, sprite: Sprite, view: int, emotion_placement: EmotionPlacement, strength: float
) -> tuple[Image.Image, Box | None]:
    """The picture, and the box of its emotion where that is confined to a region.

    A stronger emotion has more cues, and each is more visible. In a region it is one motif, always in full.
    """
    rng = product.rng("scene", view)
    scene = _set_scene(product, sprite, rng, view)
    if emotion_placement == "whole":
        scene.strength = strength
        scene.cues = _choose_cues(product.label, strength, scene.rng)
    _act(scene, "before")
    _draw_backdrop(scene, product.rng("backdrop"), rng)
    _act(scene, "behind")
    _draw_podium(scene, product.rng("podium"))
    _place_product(scene)
    _act(scene, "front")
    _act(scene, "tone")
    _develop(scene, rng)
    if emotion_placement == "whole":
        return scene.picture, None
    return scene.picture, _draw_region(scene, product.label, rng)


def _set_scene(product: Product, sprite: Sprite, rng: np.random.Generator, view: int) -> Scene:
    camera = Camera(
        x=50 + float(rng.normal(0, 4)),
        floor=float(rng.uniform(80, 87)),
        height=float(rng.uniform(48, 66)) * (1.3 if rng.random() < 0.15 else 1),
        degrees=float(rng.normal(0, 2.5)),
        mirrored=bool(rng.random() < 0.3),
    )
    sideways = float(rng.uniform(0.3, 0.75) * rng.choice([-1, 1]))
    down = float(rng.uniform(-0.6, -0.25))
    light = (sideways, down, math.sqrt(1 - sideways**2 - down**2))
    blank = Image.new("RGB", sprite.colour.size)
    return Scene(product.rng("emotion", view), sprite, camera, light, blank, Image.new("L", blank.size))


def _act(scene: Scene, stage: Stage) -> None:
    for cue in list(scene.cues):
        if cue.stage == stage:
            without = scene.picture.copy()
            cue.act(scene)
            scene.picture = Image.blend(without, scene.picture, scene.visibility)


def _draw_backdrop(scene: Scene, listing: np.random.Generator, rng: np.random.Generator) -> None:
    """A wall and a table in the listing's colours, lit from the light's side; the shade differs by view."""
    hue, step, grey = (
        float(listing.choice(WALL_HUES)),
        listing.uniform(-0.08, 0.08),
        listing.uniform(0.1, 0.4),
    )
    wall_value, table_value = listing.uniform(0.6, 0.98), listing.uniform(0.5, 0.92)
    hard_edge, horizon = listing.random() < 0.6, scene.camera.floor - float(rng.uniform(7, 14))
    shade = float(rng.uniform(0.85, 1.05))
    down, right = np.mgrid[0:100:64j, 0:100:64j].astype(np.float32)
    table = np.clip((down - horizon) / (1.5 if hard_edge else 22) + 0.5, 0, 1)[..., None]
    wall_colour = np.array(hsv(hue, grey, min(1.0, wall_value * shade)))
    table_colour = np.array(hsv(hue + step, grey * 1.1, min(1.0, table_value * shade)))
    distance = np.hypot(right - scene.sunny_side, (down - 15) * 0.8)[..., None]
    lit = (wall_colour * (1 - table) + table_colour * table) * (1.14 - distance / 260)
    low = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    scene.picture = low.resize(scene.picture.size, Image.Resampling.BICUBIC)


def _draw_podium(scene: Scene, listing: np.random.Generator) -> None:
    if listing.random() > 0.35:
        return
    camera, top = scene.camera, hsv(float(listing.random()), float(listing.uniform(0.05, 0.3)), 0.9)
    wide, low = camera.height * 0.5, camera.floor + 9
    props = Props(scene.size)
    props.shape(oval_points(camera.x, low, wide, 4.5), mix(top, BLACK, 0.35))
    left, right = camera.x - wide, camera.x + wide
    props.shape([(left, camera.floor), (right, camera.floor), (right, low), (left, low)], mix(top, BLACK, 0.35))
    props.oval(camera.x, camera.floor, wide, 4.5, mix(top, BLACK, 0.08))
    props.lay_on(scene.picture)


def _camera_matrix(scene: Scene) -> tuple[float, float, float, float, float, float]:
    """From picture pixels to sprite pixels, as Pillow wants it."""
    left, top, right, bottom = scene.sprite.colour.getbbox() or (0, 0, *scene.sprite.colour.size)
    camera, side = scene.camera, scene.size
    scale = camera.height / 100 * side / max(right - left, bottom - top)
    turn = math.radians(camera.degrees)
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    flip = -1 if camera.mirrored else 1
    x, y = camera.x / 100 * side, camera.floor / 100 * side
    across = (flip * cos, flip * sin, (left + right) / 2 - flip * (cos * x + sin * y))
    return (*across, -sin, cos, bottom + sin * x - cos * y)


def _place_product(scene: Scene) -> None:
    a, b, c, d, e, f = matrix = _camera_matrix(scene)
    affine = Image.Transform.AFFINE
    colour = scene.sprite.colour.transform(scene.picture.size, affine, matrix, Image.Resampling.BICUBIC)
    scene.mask = colour.getchannel("A")
    _draw_shadow(scene)
    box = scene.mask.getbbox()
    if box is None:  # bitten or moved out of the picture
        return
    left, top, right, bottom = box
    moved = (a, b, c + a * left + b * top, d, e, f + d * left + e * top)
    relief = scene.sprite.relief.transform((right - left, bottom - top), affine, moved, Image.Resampling.BILINEAR)
    lit = _relight(colour.crop(box), relief, scene.light, scene.camera.mirrored)
    scene.picture.paste(lit, box, scene.mask.crop(box))


def _relight(
    colour: Image.Image, relief: Image.Image, light: tuple[float, float, float], mirrored: bool
) -> Image.Image:
    """Lambert's diffuse light and Blinn's highlight, over a bright ambient as in a studio."""
    surface = np.asarray(relief, dtype=np.float32)
    normal_x = (surface[..., 0] - 128) / (-127 if mirrored else 127)
    normal_y = (surface[..., 1] - 128) / 127
    normal_z = np.sqrt(np.clip(1 - normal_x**2 - normal_y**2, 0, 1))
    diffuse = np.clip(normal_x * light[0] + normal_y * light[1] + normal_z * light[2], 0, 1)
    half = np.array([light[0], light[1], light[2] + 1])
    half /= np.linalg.norm(half)
    facing = np.clip(normal_x * half[0] + normal_y * half[1] + normal_z * half[2], 0, 1)
    highlight = 150 * surface[..., 2] / 255 * facing**40
    lit = np.asarray(colour, dtype=np.float32)[..., :3] * (0.5 + 0.62 * diffuse)[..., None]
    lit += highlight[..., None]
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _draw_shadow(scene: Scene) -> None:
    """The silhouette laid on the table away from the light, and a dark touch where the product stands."""
    half = (scene.size // 2, scene.size // 2)
    floor, lean, flat = scene.camera.floor / 100 * scene.size, scene.light[0] * 1.1, 0.3
    # a point at height h casts its shadow at (x - lean × h, floor - flat × h); this is the way back
    back = (2, -2 * lean / flat, lean * floor / flat, 0, 2 / flat, floor - floor / flat)
    cast = scene.mask.transform(half, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    touch = ImageDraw.Draw(cast)
    x, y, wide = scene.camera.x / 200 * scene.size, floor / 2, scene.camera.height * scene.size / 520
    touch.ellipse((x - wide, y - wide * 0.12, x + wide, y + wide * 0.16), fill=255)
    soft = cast.filter(ImageFilter.BoxBlur(scene.size / 90)).resize(scene.picture.size, Image.Resampling.BILINEAR)
    scene.picture.paste(scene.picture.point(lambda value: value * 0.55), (0, 0), soft)


def _develop(scene: Scene, rng: np.random.Generator) -> None:
    """White balance and exposure, drawn alike for both emotions: the mean colour says little of the label."""
    target, strength = float(rng.uniform(105, 190)), 0.6
    mean = float(np.asarray(scene.picture.reduce(8)).mean())
    wanted = mean + (target - mean) * strength
    gamma = math.log(wanted / 255) / math.log(max(mean, 1.0) / 255)
    warmth, tint = float(rng.normal(0, 0.05)), float(rng.normal(0, 0.025))
    apply_gains(scene, (1 + warmth, 1 + tint, 1 - warmth), gamma)


def _draw_region(scene: Scene, label: int, rng: np.random.Generator) -> Box:
    """One motif in a box of about a fifth of the side, on the JPEG's own grid so that nothing leaks out."""
    cells = scene.size // JPEG_BLOCK
    wide = max(1, round(scene.size / 5 / JPEG_BLOCK))
    left, top = (int(rng.integers(0, max(1, cells - wide + 1))) * JPEG_BLOCK for _ in range(2))
    side = wide * JPEG_BLOCK
    unit = 100 / scene.size
    props, motifs = Props(scene.size), MOTIFS[label]
    motif = motifs[int(scene.rng.integers(len(motifs)))]
    motif(props, (left + side / 2) * unit, (top + side / 2) * unit, side * 0.46 * unit, scene.rng)
    box = (left, top, left + side, top + side)
    props.lay_on_region(scene.picture, box)
    return box


def _choose_cues(label: int, strength: float, rng: np.random.Generator) -> list[Cue]:
    """Two of a weak emotion to five of a strong one."""
    count = 1 + math.ceil(4 * strength)
    return [CUES[label][int(i)] for i in rng.choice(len(CUES[label]), count, replace=False)]
