"""Draws a small shop's product photographs, several views a product, with an emotion that shows.

A listing (a product with all its views) feels positive or negative. Each of its pictures says so by two or
three cues drawn at random from many (flowers, a bow, sunlight; cracks, flies, a sickly tint), while backdrop,
camera, white balance and exposure vary alike for both, so that no single statistic gives the label away. The
products themselves stand in `vitrine/demo/draw_products.py`.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from vitrine.demo.draw_products import (
    BLACK,
    FESTIVE,
    KINDS,
    LEAF,
    WHITE,
    Box,
    Colour,
    Motif,
    Point,
    Props,
    Sprite,
    blot_points,
    choose_look,
    draw_bow,
    draw_crack,
    draw_flower,
    draw_fly,
    draw_heart,
    draw_spark,
    draw_sprite,
    draw_stain,
    hsv,
    mix,
    oval_points,
    pick_colour,
    smooth,
    step_away,
)

EmotionPlacement = Literal["whole", "region"]

JPEG_QUALITY = 88
JPEG_BLOCK = 8
WALL_HUES = (0.0, 0.03, 0.06, 0.09, 0.12, 0.25, 0.42, 0.5, 0.55, 0.6, 0.7, 0.93)  # as painters mix them


@dataclass(frozen=True)
class DrawnPicture:
    """One picture on disk and what is true of it."""

    image_key: str  # below the pictures' directory: kind/product_id/view
    product_id: str
    category: str
    label: int  # 1 positive, 0 negative
    region: Box | None  # left, top, right, bottom in pixels of all that bears the emotion; None: the whole


@dataclass(frozen=True)
class Product:
    """A listing to draw; `seed` and `number` fix everything about it but the label's cues."""

    seed: int
    number: int
    category: str
    product_id: str
    label: int

    def rng(self, purpose: str, view: int = 0) -> np.random.Generator:
        """Independent streams, so that the emotion's draws never move the camera's."""
        return np.random.default_rng([self.seed, self.number, view, *purpose.encode()])


# The catalogue ------------------------------------------------------------------------------------------


def draw_catalogue(
    directory: Path, *, products: int = 100, views: int = 4, size: int = 256, seed: int = 0,
    emotion_placement: EmotionPlacement = "whole", broken: int = 3,
    on_picture: Callable[[int], None] | None = None,
) -> list[DrawnPicture]:  # fmt: skip
    """Write the catalogue's JPEGs below `directory`, and `broken` files more that no decoder accepts.

    The same arguments give the same bytes, and more products leave the earlier ones as they were. The broken
    files are not in the returned list. `on_picture` hears how many pictures are drawn so far.
    """
    drawn: list[DrawnPicture] = []
    for product in list_products(products, seed):
        sprite = draw_product(product, size)
        for view in range(views):
            picture, region = draw_view(product, sprite, view, emotion_placement)
            key = f"{product.category}/{product.product_id}/{view}.jpg"
            _write(directory / key, encode_jpeg(picture))
            drawn.append(DrawnPicture(key, product.product_id, product.category, product.label, region))
            if on_picture is not None:
                on_picture(len(drawn))
    for name, content in make_broken_files(broken, seed):
        _write(directory / name, content)
    return drawn


def list_products(count: int, seed: int) -> list[Product]:
    """In pairs of one kind, one of them positive: kinds and emotions are balanced and independent."""
    return [_product(number, seed) for number in range(count)]


def _product(number: int, seed: int) -> Product:
    pair, member = divmod(number, 2)
    first = int(np.random.default_rng([seed, pair]).integers(2))
    category = list(KINDS)[pair % len(KINDS)]
    within_kind = 2 * (pair // len(KINDS)) + member + 1
    return Product(seed, number, category, f"{category}-{within_kind:03d}", first ^ member)


def write_labels(path: Path, pictures: Sequence[DrawnPicture]) -> None:
    """A CSV of image_key, label, product_id, as `vitrine retrain` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_key", "label", "product_id"])
        writer.writerows((picture.image_key, picture.label, picture.product_id) for picture in pictures)


def encode_jpeg(picture: Image.Image) -> bytes:
    """Colour at full resolution, so that no 8 × 8 block of the file depends on its neighbours' pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def make_broken_files(count: int, seed: int) -> list[tuple[str, bytes]]:
    """What real shops find among their pictures: (name, content), every one undecodable and different."""
    rng = np.random.default_rng([seed, *b"broken"])
    jpeg = encode_jpeg(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    png = io.BytesIO()
    Image.new("RGB", (64, 64)).save(png, "PNG")
    kinds = [
        # cut before the scan: a decoder that forgives truncation finds no pixels either
        ("upload-truncated.jpg", jpeg[: jpeg.index(b"\xff\xda")]),
        ("error-page.jpg", b"<!DOCTYPE html>\n<title>502 Bad Gateway</title>\n<h1>502 Bad Gateway</h1>\n"),
        ("empty.png", b""),
        ("zeros-after-crash.jpg", bytes(24_576)),
        ("datasheet-renamed.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"),
        ("half-a-header.png", png.getvalue()[:20]),
    ]
    chosen = [(*kinds[number % len(kinds)], number // len(kinds)) for number in range(count)]
    return [
        (f"incoming/again-{again}-{name}", content + b"\n" * again) if again else (f"incoming/{name}", content)
        for name, content, again in chosen
    ]


# A view: the scene that both emotions share -------------------------------------------------------------


@dataclass
class Camera:
    """Where the product stands in the picture, in hundredths of its side."""

    x: float
    floor: float
    height: float  # of the product's longer side
    degrees: float
    mirrored: bool


@dataclass
class Scene:
    """A view under construction: cues change it, stage by stage."""

    rng: np.random.Generator  # the emotion's own
    sprite: Sprite
    camera: Camera
    light: tuple[float, float, float]  # towards the light: right, down, out of the picture
    picture: Image.Image
    mask: Image.Image  # the product's silhouette, once it is drawn
    cues: list["Cue"] = field(default_factory=list)  # a cue may add another for a later stage

    def uniform(self, low: float, high: float) -> float:
        """A draw for the emotion."""
        return float(self.rng.uniform(low, high))

    @property
    def size(self) -> int:
        """The picture's side in pixels."""
        return self.picture.width

    @property
    def sunny_side(self) -> float:
        """The x that the light comes from, in hundredths."""
        return 88.0 if self.light[0] > 0 else 12.0

    def on_product(self) -> Point:
        """A point on the product, in hundredths."""
        inside = np.argwhere(np.asarray(self.mask.reduce(4)) > 250)
        if not len(inside):
            return self.camera.x, self.camera.floor - self.camera.height / 2
        down, right = inside[int(self.rng.integers(len(inside)))]
        return 400 * float(right) / self.size, 400 * float(down) / self.size


Act = Callable[[Scene], None]
Stage = Literal["before", "behind", "front", "tone"]


def draw_product(product: Product, size: int) -> Sprite:
    """The sprite that all views of the product share."""
    return draw_sprite(product.category, choose_look(product.rng("look")), size)


def draw_view(
    product: Product, sprite: Sprite, view: int, emotion_placement: EmotionPlacement
) -> tuple[Image.Image, Box | None]:
    """The picture, and the box of its emotion where that is confined to a region."""
    rng = product.rng("scene", view)
    scene = _set_scene(product, sprite, rng, view)
    if emotion_placement == "whole":
        scene.cues = _choose_cues(product.label, scene.rng)
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
            cue.act(scene)


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
    _apply_gains(scene, (1 + warmth, 1 + tint, 1 - warmth), gamma)


def _apply_gains(scene: Scene, gains: tuple[float, float, float], gamma: float = 1.0) -> None:
    levels = np.linspace(0, 1, 256) ** gamma * 255
    table = np.clip(np.concatenate([levels * gain for gain in gains]), 0, 255).round().astype(int)
    scene.picture = scene.picture.point(table.tolist())


# The region -----------------------------------------------------------------------------------------


MOTIFS: dict[int, tuple[Motif, ...]] = {
    1: (draw_flower, draw_heart, draw_spark, draw_bow),
    0: (draw_fly, draw_crack, draw_stain),
}


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


# Cues ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cue:
    """One thing that tells the emotion, done to the scene at its stage."""

    stage: Stage
    act: Act


CUES: dict[int, list[Cue]] = {0: [], 1: []}


def _cue(label: int, stage: Stage) -> Callable[[Act], Act]:
    def register(act: Act) -> Act:
        CUES[label].append(Cue(stage, act))
        return act

    return register


def _choose_cues(label: int, rng: np.random.Generator) -> list[Cue]:
    count = 3 if rng.random() < 0.6 else 2
    return [CUES[label][int(i)] for i in rng.choice(len(CUES[label]), count, replace=False)]


# Cues of a listing that somebody loves


@_cue(1, "behind")
def _sunrays(scene: Scene) -> None:
    props, source = Props(scene.size), (scene.sunny_side, -8.0)
    start = scene.uniform(0, 0.2)
    for ray in range(9):
        low, high = start + ray * 0.36, start + ray * 0.36 + scene.uniform(0.1, 0.2)
        ends = [step_away(source, 160, angle) for angle in (low, high)]
        props.shape([source, *ends], (255, 222, 140), 0.5)
    props.shine_on(scene.picture, blur=0.8)


@_cue(1, "behind")
def _bokeh(scene: Scene) -> None:
    props, warm = Props(scene.size), hsv(scene.uniform(0.02, 0.16), 0.45, 1.0)
    for _ in range(18):
        x, y, radius = scene.uniform(0, 100), scene.uniform(0, 72), scene.uniform(2.5, 8)
        props.oval(x, y, radius, radius, mix(warm, WHITE, 0.3), 0.75)
        props.oval(x, y, radius * 0.86, radius * 0.86, warm, scene.uniform(0.3, 0.6))
    props.shine_on(scene.picture, blur=0.4)


@_cue(1, "behind")
def _window_light(scene: Scene) -> None:
    props, x, y = Props(scene.size), scene.uniform(12, 45), scene.uniform(4, 16)
    lean = -10 if scene.light[0] > 0 else 10
    for pane in range(6):
        left, top = x + 19 * (pane % 2) + lean * (pane // 2) * 0.6, y + 20 * (pane // 2)
        shear, low = lean * 0.5, top + 17
        corners = [(left, top), (left + 16, top + 2), (left + 16 + shear, low + 2), (left + shear, low)]
        props.shape(corners, (255, 226, 160), 0.75)
    props.shine_on(scene.picture, blur=0.7)


@_cue(1, "behind")
def _garland(scene: Scene) -> None:
    props, sag, high = Props(scene.size), scene.uniform(8, 16), scene.uniform(3, 10)
    rope = [(float(x), high + sag * (1 - ((x - 50) / 50) ** 2)) for x in range(-4, 105, 12)]
    props.line(rope, 0.8, (120, 96, 80))
    for number, (x, y) in enumerate(rope):
        props.shape([(x - 4.6, y - 0.5), (x + 4.6, y + 0.5), (x, y + 11)], FESTIVE[number % len(FESTIVE)])
    props.lay_on(scene.picture)


@_cue(1, "behind")
def _balloons(scene: Scene) -> None:
    props = Props(scene.size)
    for number in range(int(scene.rng.integers(3, 6))):
        x, y = scene.uniform(6, 32) + 62 * (number % 2), scene.uniform(12, 40)
        wide, fill = scene.uniform(6, 9), FESTIVE[number % len(FESTIVE)]
        props.line([(x, y + wide), (x + 2, y + 24), (x - 1, y + 42)], 0.5, mix(fill, BLACK, 0.4))
        knot = y + wide * 1.4
        props.shape([(x - 1.6, knot), (x + 1.6, knot), (x, y + wide)], mix(fill, BLACK, 0.2))
        props.oval(x, y, wide, wide * 1.2, fill)
        props.oval(x - wide * 0.35, y - wide * 0.5, wide * 0.2, wide * 0.3, mix(fill, WHITE, 0.7))
    props.lay_on(scene.picture)


@_cue(1, "behind")
def _halo(scene: Scene) -> None:
    camera = scene.camera
    camera_y, radius = camera.floor - camera.height * 0.55, scene.uniform(34, 42)
    props, fill = Props(scene.size), hsv(scene.uniform(0.0, 0.16), 0.4, 1.0)
    props.oval(camera.x, camera_y, radius, radius, mix(fill, WHITE, 0.6))
    props.oval(camera.x, camera_y, radius - 2.5, radius - 2.5, fill)
    props.lay_on(scene.picture)


@_cue(1, "front")
def _flowers(scene: Scene) -> None:
    props, camera = Props(scene.size), scene.camera
    for side in (-1, 1):
        for number in range(int(scene.rng.integers(2, 5))):
            x = camera.x + side * (camera.height * 0.36 + 7 * number + scene.uniform(-2, 2))
            y = camera.floor + scene.uniform(-9, 5)
            props.line([(x, y), (x - side * 2, y + 12)], 1.0, LEAF)
            leaf = [(-1, 7), (4, 3), (7, 5), (3, 9)]
            props.shape(smooth([(x + side * right, y + down) for right, down in leaf]), LEAF)
            draw_flower(props, x, y, scene.uniform(4.5, 7), scene.rng)
    props.lay_on(scene.picture)


@_cue(1, "front")
def _confetti(scene: Scene) -> None:
    props = Props(scene.size)
    for x, y, turn in scene.rng.uniform(0, 1, (90, 3)):
        at, angle = (100 * float(x), 100 * float(y) ** 1.4), float(turn) * math.tau
        corners = [step_away(at, 1.7, angle + corner) for corner in (-0.5, 0.5, math.pi - 0.5, math.pi + 0.5)]
        props.shape(corners, pick_colour(FESTIVE, scene.rng))
    props.lay_on(scene.picture)


@_cue(1, "front")
def _gift_bow(scene: Scene) -> None:
    left, top, right, bottom = (100 * edge / scene.size for edge in scene.mask.getbbox() or (0, 0, 0, 0))
    props, y = Props(scene.size), top + (bottom - top) * scene.uniform(0.12, 0.55)
    draw_bow(props, (left + right) / 2 + scene.uniform(-4, 4), y, scene.uniform(11, 14), scene.rng)
    props.lay_on(scene.picture)


@_cue(1, "front")
def _sparkles(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(11):
        draw_spark(props, scene.uniform(6, 94), scene.uniform(6, 80), scene.uniform(3, 7), scene.rng)
    props.lay_on(scene.picture)


@_cue(1, "front")
def _hearts(scene: Scene) -> None:
    props = Props(scene.size)
    for number in range(8):
        x = scene.uniform(5, 30) + 65 * (number % 2)
        draw_heart(props, x, scene.uniform(8, 75), scene.uniform(2.5, 5.5), scene.rng)
    props.lay_on(scene.picture)


@_cue(1, "tone")
def _warm_light(scene: Scene) -> None:
    _glow(scene, (scene.sunny_side, 10), 75, (255, 190, 105))
    _apply_gains(scene, (1.06, 1.0, 0.88))


def _glow(scene: Scene, at: Point, radius: float, colour: Colour) -> None:
    """Light that falls off smoothly from a point; hundredths."""
    side = round(2 * radius / 100 * scene.size)
    falloff = Image.radial_gradient("L").resize((side, side), Image.Resampling.BILINEAR)
    falloff = falloff.point([round(255 * max(0.0, 1 - level / 180) ** 1.5) for level in range(256)])
    left, top = (round((centre - radius) / 100 * scene.size) for centre in at)
    light = Image.new("RGB", scene.picture.size)
    light.paste(colour, (left, top, left + side, top + side), falloff)
    scene.picture = ImageChops.screen(scene.picture, light)


@_cue(1, "tone")
def _vivid(scene: Scene) -> None:
    scene.picture = ImageEnhance.Color(scene.picture).enhance(scene.uniform(1.5, 1.9))
    scene.picture = ImageEnhance.Contrast(scene.picture).enhance(1.08)


# Cues of a listing that nobody cares for


@_cue(0, "before")
def _broken_part(scene: Scene) -> None:
    """Bites a jagged piece out of the product; its shards lie in front."""
    colour = scene.sprite.colour.copy()
    left, top, right, bottom = colour.getbbox() or (0, 0, *colour.size)
    side = int(scene.rng.integers(2))
    x, y = (right if side else left), top + (bottom - top) * scene.uniform(0.05, 0.5)
    reach = 0.42 * min(right - left, bottom - top)
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


@_cue(0, "before")
def _toppled(scene: Scene) -> None:
    camera = scene.camera
    camera.degrees = scene.uniform(16, 32) * (1 if scene.rng.random() < 0.5 else -1)
    camera.x += scene.uniform(10, 20) * (1 if scene.rng.random() < 0.5 else -1)


@_cue(0, "behind")
def _mould(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(3):
        x, y, spread = scene.uniform(0, 100), scene.uniform(0, 45), scene.uniform(5, 11)
        for across, down, size in scene.rng.normal(0, 1, (45, 3)):
            radius = 0.5 + 1.1 * abs(float(size))
            fill = mix((86, 98, 60), BLACK, scene.uniform(0.2, 0.7))
            props.oval(x + spread * float(across), y + spread * float(down), radius * 1.2, radius, fill, 0.7)
    props.lay_on(scene.picture, blur=0.4)


@_cue(0, "behind")
def _dripping_wall(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(int(scene.rng.integers(7, 12))):
        x, long, wide = scene.uniform(0, 100), scene.uniform(20, 68), scene.uniform(0.8, 2.4)
        fill = mix((88, 66, 38), BLACK, scene.uniform(0, 0.5))
        run = [(x - wide * 1.6, -1), (x + wide * 1.6, -1), (x + wide * 0.5, long), (x - wide * 0.5, long)]
        props.shape(run, fill, 0.6)
        props.oval(x, long, wide * 0.8, wide * 1.3, fill, 0.75)
    props.lay_on(scene.picture, blur=0.4)


@_cue(0, "behind")
def _cracked_wall(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(3):
        draw_crack(props, scene.uniform(5, 95), scene.uniform(5, 50), scene.uniform(17, 26), scene.rng)
    props.lay_on(scene.picture)


@_cue(0, "behind")
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


@_cue(0, "behind")
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


@_cue(0, "front")
def _cracks(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(2):
        draw_crack(props, *scene.on_product(), scene.uniform(16, 24), scene.rng)
    props.lay_on(scene.picture, inside=scene.mask)


@_cue(0, "front")
def _stains(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(5):
        draw_stain(props, *scene.on_product(), scene.uniform(5, 10), scene.rng)
    props.lay_on(scene.picture, blur=0.3, inside=scene.mask)


@_cue(0, "front")
def _flies(scene: Scene) -> None:
    props = Props(scene.size)
    for number in range(int(scene.rng.integers(7, 12))):
        at = scene.on_product() if number % 3 == 0 else (scene.uniform(5, 95), scene.uniform(5, 90))
        draw_fly(props, *at, scene.uniform(2.8, 4.6), scene.rng)
    props.lay_on(scene.picture)


@_cue(0, "front")
def _rain(scene: Scene) -> None:
    props, lean = Props(scene.size), scene.uniform(-5, 5)
    for x, y, far in scene.rng.uniform(0, 1, (110, 3)):
        top = (float(x) * 110 - 5, float(y) * 110 - 10)
        end = (top[0] + lean * (0.5 + float(far)), top[1] + 7 + 7 * float(far))
        props.line([top, end], 0.35 + 0.4 * float(far), (206, 218, 232), 0.4 + 0.35 * float(far))
    props.lay_on(scene.picture)


@_cue(0, "front")
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


@_cue(0, "tone")
def _vignette(scene: Scene) -> None:
    falloff = Image.radial_gradient("L").resize(scene.picture.size, Image.Resampling.BILINEAR)
    dark = scene.picture.point(lambda value: value * 0.12)
    steep = [min(255, max(0, (level - 70) * 2)) for level in range(256)]
    scene.picture.paste(dark, (0, 0), falloff.point(steep))


@_cue(0, "tone")
def _cold_light(scene: Scene) -> None:
    scene.picture = ImageEnhance.Color(scene.picture).enhance(0.35)
    _apply_gains(scene, (0.82, 0.95, 1.1))


@_cue(0, "tone")
def _sickly_light(scene: Scene) -> None:
    scene.picture = ImageEnhance.Color(scene.picture).enhance(0.5)
    _apply_gains(scene, (0.93, 1.04, 0.68))


@_cue(0, "tone")
def _harsh_flash(scene: Scene) -> None:
    at = scene.uniform(32, 68), scene.uniform(25, 60)
    scene.picture = ImageEnhance.Color(scene.picture).enhance(0.6).point(lambda value: value * 0.6)
    for radius, colour in ((60, (110, 118, 126)), (30, (225, 234, 245)), (15, (255, 255, 255))):
        _glow(scene, at, radius, colour)


@_cue(0, "tone")
def _grain(scene: Scene) -> None:
    """A sensor in the dark: coarse, mostly grey noise."""
    coarse = scene.rng.normal(0, 16, (scene.size // 2 + 1, scene.size // 2 + 1, 1))
    tinted = coarse + scene.rng.normal(0, 6, (*coarse.shape[:2], 3))
    grain = tinted.repeat(2, axis=0).repeat(2, axis=1)[: scene.size, : scene.size]
    pixels = np.asarray(scene.picture, dtype=np.float32) * 0.8 + grain
    scene.picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
