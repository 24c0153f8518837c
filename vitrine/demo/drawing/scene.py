"""A view under construction, the cues that may change it, and the light that falls on all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image, ImageChops

from vitrine.demo.drawing.pen import Sprite
from vitrine.demo.drawing.shapes import Colour, Point


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
    cues: list[Cue] = field(default_factory=list)  # a cue may add another for a later stage
    strength: float = 1.0  # of the emotion, in (0, 1]

    @property
    def visibility(self) -> float:
        """How much of a cue shows: half of a weak emotion's, all of the strongest one's."""
        return 0.5 + self.strength / 2

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


@dataclass(frozen=True)
class Cue:
    """One thing that tells the emotion, done to the scene at its stage."""

    stage: Stage
    act: Act


def cue(cues: list[Cue], stage: Stage) -> Callable[[Act], Act]:
    """A decorator that adds what a function does to these cues."""

    def register(act: Act) -> Act:
        cues.append(Cue(stage, act))
        return act

    return register


def glow(scene: Scene, at: Point, radius: float, colour: Colour) -> None:
    """Light that falls off smoothly from a point; hundredths."""
    side = round(2 * radius / 100 * scene.size)
    falloff = Image.radial_gradient("L").resize((side, side), Image.Resampling.BILINEAR)
    falloff = falloff.point([round(255 * max(0.0, 1 - level / 180) ** 1.5) for level in range(256)])
    left, top = (round((centre - radius) / 100 * scene.size) for centre in at)
    light = Image.new("RGB", scene.picture.size)
    light.paste(colour, (left, top, left + side, top + side), falloff)
    scene.picture = ImageChops.screen(scene.picture, light)


def apply_gains(scene: Scene, gains: tuple[float, float, float], gamma: float = 1.0) -> None:
    """Multiply red, green and blue, after raising the levels to `gamma`."""
    levels = np.linspace(0, 1, 256) ** gamma * 255
    table = np.clip(np.concatenate([levels * gain for gain in gains]), 0, 255).round().astype(int)
    scene.picture = scene.picture.point(table.tolist())
