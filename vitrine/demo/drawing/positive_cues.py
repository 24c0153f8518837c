"""The cues of a listing that somebody loves: sunlight, flowers, a bow, balloons, warm light."""

from __future__ import annotations

import math

from PIL import ImageEnhance

from vitrine.demo.drawing.props import FESTIVE, Props, draw_bow, draw_flower, draw_heart, draw_spark, pick_colour
from vitrine.demo.drawing.scene import Cue, Scene, apply_gains, cue, glow
from vitrine.demo.drawing.shapes import BLACK, LEAF, WHITE, hsv, mix, smooth, step_away

POSITIVE_CUES: list[Cue] = []


@cue(POSITIVE_CUES, "behind")
def _sunrays(scene: Scene) -> None:
    props, source = Props(scene.size), (scene.sunny_side, -8.0)
    start = scene.uniform(0, 0.2)
    for ray in range(9):
        low, high = start + ray * 0.36, start + ray * 0.36 + scene.uniform(0.1, 0.2)
        ends = [step_away(source, 160, angle) for angle in (low, high)]
        props.shape([source, *ends], (255, 222, 140), 0.5)
    props.shine_on(scene.picture, blur=0.8)


@cue(POSITIVE_CUES, "behind")
def _bokeh(scene: Scene) -> None:
    props, warm = Props(scene.size), hsv(scene.uniform(0.02, 0.16), 0.45, 1.0)
    for _ in range(18):
        x, y, radius = scene.uniform(0, 100), scene.uniform(0, 72), scene.uniform(2.5, 8)
        props.oval(x, y, radius, radius, mix(warm, WHITE, 0.3), 0.75)
        props.oval(x, y, radius * 0.86, radius * 0.86, warm, scene.uniform(0.3, 0.6))
    props.shine_on(scene.picture, blur=0.4)


@cue(POSITIVE_CUES, "behind")
def _window_light(scene: Scene) -> None:
    props, x, y = Props(scene.size), scene.uniform(12, 45), scene.uniform(4, 16)
    lean = -10 if scene.light[0] > 0 else 10
    for pane in range(6):
        left, top = x + 19 * (pane % 2) + lean * (pane // 2) * 0.6, y + 20 * (pane // 2)
        shear, low = lean * 0.5, top + 17
        corners = [(left, top), (left + 16, top + 2), (left + 16 + shear, low + 2), (left + shear, low)]
        props.shape(corners, (255, 226, 160), 0.75)
    props.shine_on(scene.picture, blur=0.7)


@cue(POSITIVE_CUES, "behind")
def _garland(scene: Scene) -> None:
    props, sag, high = Props(scene.size), scene.uniform(8, 16), scene.uniform(3, 10)
    rope = [(float(x), high + sag * (1 - ((x - 50) / 50) ** 2)) for x in range(-4, 105, 12)]
    props.line(rope, 0.8, (120, 96, 80))
    for number, (x, y) in enumerate(rope):
        props.shape([(x - 4.6, y - 0.5), (x + 4.6, y + 0.5), (x, y + 11)], FESTIVE[number % len(FESTIVE)])
    props.lay_on(scene.picture)


@cue(POSITIVE_CUES, "behind")
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


@cue(POSITIVE_CUES, "behind")
def _halo(scene: Scene) -> None:
    camera = scene.camera
    camera_y, radius = camera.floor - camera.height * 0.55, scene.uniform(34, 42)
    props, fill = Props(scene.size), hsv(scene.uniform(0.0, 0.16), 0.4, 1.0)
    props.oval(camera.x, camera_y, radius, radius, mix(fill, WHITE, 0.6))
    props.oval(camera.x, camera_y, radius - 2.5, radius - 2.5, fill)
    props.lay_on(scene.picture)


@cue(POSITIVE_CUES, "front")
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


@cue(POSITIVE_CUES, "front")
def _confetti(scene: Scene) -> None:
    props = Props(scene.size)
    for x, y, turn in scene.rng.uniform(0, 1, (90, 3)):
        at, angle = (100 * float(x), 100 * float(y) ** 1.4), float(turn) * math.tau
        corners = [step_away(at, 1.7, angle + corner) for corner in (-0.5, 0.5, math.pi - 0.5, math.pi + 0.5)]
        props.shape(corners, pick_colour(FESTIVE, scene.rng))
    props.lay_on(scene.picture)


@cue(POSITIVE_CUES, "front")
def _gift_bow(scene: Scene) -> None:
    left, top, right, bottom = (100 * edge / scene.size for edge in scene.mask.getbbox() or (0, 0, 0, 0))
    props, y = Props(scene.size), top + (bottom - top) * scene.uniform(0.12, 0.55)
    draw_bow(props, (left + right) / 2 + scene.uniform(-4, 4), y, scene.uniform(11, 14), scene.rng)
    props.lay_on(scene.picture)


@cue(POSITIVE_CUES, "front")
def _sparkles(scene: Scene) -> None:
    props = Props(scene.size)
    for _ in range(11):
        draw_spark(props, scene.uniform(6, 94), scene.uniform(6, 80), scene.uniform(3, 7), scene.rng)
    props.lay_on(scene.picture)


@cue(POSITIVE_CUES, "front")
def _hearts(scene: Scene) -> None:
    props = Props(scene.size)
    for number in range(8):
        x = scene.uniform(5, 30) + 65 * (number % 2)
        draw_heart(props, x, scene.uniform(8, 75), scene.uniform(2.5, 5.5), scene.rng)
    props.lay_on(scene.picture)


@cue(POSITIVE_CUES, "tone")
def _warm_light(scene: Scene) -> None:
    glow(scene, (scene.sunny_side, 10), 75, (255, 190, 105))
    apply_gains(scene, (1.06, 1.0, 0.88))


@cue(POSITIVE_CUES, "tone")
def _vivid(scene: Scene) -> None:
    scene.picture = ImageEnhance.Color(scene.picture).enhance(scene.uniform(1.5, 1.9))
    scene.picture = ImageEnhance.Contrast(scene.picture).enhance(1.08)
