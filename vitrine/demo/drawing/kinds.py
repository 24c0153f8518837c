"""The kinds of products that the shop sells, one function each; a look's knobs give each product its proportions."""

from __future__ import annotations

import math
from collections.abc import Callable

from vitrine.demo.drawing.pen import FLOOR, Look, Pen, Sprite
from vitrine.demo.drawing.shapes import BLACK, LEAF, STEEL, WHITE, WOOD, Colour, Point, hsv, mix, oval_points, smooth

Kind = Callable[[Pen, Look], None]
KINDS: dict[str, Kind] = {}


def _kind(draw: Kind) -> Kind:
    KINDS[draw.__name__.removeprefix("_")] = draw
    return draw


def draw_sprite(kind: str, look: Look, side: int) -> Sprite:
    """A product of `kind`, one of KINDS, as a square of `side` pixels."""
    pen = Pen(side, look)
    KINDS[kind](pen, look)
    return pen.sprite()


def _span(low: float, high: float, knob: float) -> float:
    return low + (high - low) * knob


@_kind
def _mug(pen: Pen, look: Look) -> None:
    wide, taper, top = _span(19, 27, look.knobs[0]), _span(0, 6, look.knobs[1]), _span(26, 42, look.knobs[2])
    middle = (top + FLOOR) / 2
    handle = oval_points(50 + wide - 2, middle, 13, 0.32 * (FLOOR - top), (-0.27, 0.27))
    pen.stroke(handle, 6, look.accent, "ball", 0.6)
    foot = wide - taper
    pen.lathe([(wide, top), (foot, FLOOR - 4), (foot - 4, FLOOR)], pen.pattern, gloss=0.7)
    pen.oval(50, top, wide, 5, mix(look.trim, WHITE, 0.5), "flat", 0.5)
    pen.oval(50, top + 0.8, wide - 2.5, 3.6, (84, 54, 38), "flat", 0.6)


@_kind
def _teapot(pen: Pen, look: Look) -> None:
    wide, tall = _span(23, 28, look.knobs[0]), _span(18, 26, look.knobs[1])
    middle = FLOOR - 3 - tall
    pen.stroke(oval_points(50 + wide - 1, middle, 13, tall * 0.7, (-0.28, 0.26)), 5, look.accent, "ball", 0.6)
    outline = [(34, 12), (26, 10), (16, -8), (8, -17), (15, -18), (32, -6)]
    spout = [(x, middle + y) for x, y in outline]
    pen.shape(smooth(spout), look.accent, "ball", 0.6)
    pen.block(50 - wide * 0.55, FLOOR - 6, 50 + wide * 0.55, FLOOR, look.dark)
    pen.oval(50, middle, wide, tall, pen.pattern, "ball", 0.8)
    pen.oval(50, middle - tall * 0.88, wide * 0.55, 5.5, look.trim, "ball", 0.7)
    pen.oval(50, middle - tall - 6, 4, 4, look.accent, "ball", 0.8)


@_kind
def _lamp(pen: Pen, look: Look) -> None:
    low, high = _span(22, 32, look.knobs[0]), _span(9, 20, look.knobs[1])
    edge, belly = _span(44, 54, look.knobs[2]), _span(5, 15, look.knobs[3])
    pen.lathe([(1.6, edge - 4), (1.6, 72)], STEEL, 0.8)
    pen.oval(50, 76, belly, 11, look.accent, "ball", 0.8)
    pen.lathe([(13, FLOOR - 4), (16, FLOOR)], look.dark, 0.4)
    pen.lathe([(high, 12), (low, edge)], pen.pattern, 0.1)
    pen.lathe([(high, 12), (high + 0.6, 13.6)], look.dark, 0.2)
    pen.lathe([(low - 0.5, edge - 1.8), (low, edge)], look.dark, 0.2)
    pen.stroke([(50 + low * 0.6, edge), (50 + low * 0.6, edge + 11)], 0.7, look.dark)


@_kind
def _plant(pen: Pen, look: Look) -> None:
    wide, top = _span(14, 21, look.knobs[0]), _span(58, 66, look.knobs[1])
    count, reach = 5 + int(6 * look.knobs[2]), _span(32, 46, look.knobs[3])
    green = mix(LEAF, hsv(_span(0.2, 0.45, look.knobs[4]), 0.6, 0.55), 0.6)
    for number in range(count):
        angle = math.radians(_span(-160, -20, (number + 0.5) / count))
        length = reach * (0.8 + 0.3 * math.sin(number * 2.1 + 6 * look.knobs[3]))
        shade = mix(green, (20, 50, 40) if number % 2 else (190, 220, 120), 0.25)
        _leaf(pen, (50 + 4 * math.cos(angle), top + 2), angle, length, _span(4, 9, look.knobs[5]), shade)
    pen.lathe([(wide, top + 4), (wide * 0.72, FLOOR)], pen.pattern, 0.25)
    pen.lathe([(wide + 2, top), (wide + 2, top + 6)], look.accent, 0.25)


def _leaf(pen: Pen, root: Point, angle: float, length: float, width: float, shade: Colour) -> None:
    def place(along: float, aside: float) -> Point:
        droop = 0.10 * along * along * length * abs(math.cos(angle))
        x = root[0] + along * length * math.cos(angle) - aside * width * math.sin(angle)
        return x, root[1] + along * length * math.sin(angle) + aside * width * math.cos(angle) + droop

    outline = [(0.0, 0.0), (0.3, 0.5), (0.6, 1.0), (0.85, 0.6), (1.1, 0.0)]
    back = [(along, -aside) for along, aside in reversed(outline[1:-1])]
    pen.shape(smooth([place(*at) for at in outline + back]), shade, "ball", 0.3)
    pen.stroke([place(0, 0), place(0.5, 0), place(0.95, 0)], 0.7, mix(shade, WHITE, 0.35))


@_kind
def _cake(pen: Pen, look: Look) -> None:
    tiers, wide = 2 + int(2 * look.knobs[0]), _span(27, 33, look.knobs[1])
    height = (50 + 8 * look.knobs[2]) / tiers
    pen.oval(50, FLOOR - 2, 38, 4.5, mix(STEEL, WHITE, 0.6), "roll", 0.7)
    for tier in range(tiers):
        radius, bottom = wide * (1 - tier * 0.27), FLOOR - 4 - tier * height
        pen.oval(50, bottom, radius, 4, pen.pattern, "tube", 0.2)
        pen.block(50 - radius, bottom - height, 50 + radius, bottom, pen.pattern, 0.5, gloss=0.2)
        _icing(pen, bottom - height, radius, mix(look.trim, WHITE, 0.55))
    top = FLOOR - 4 - tiers * height
    for shift in (-7, 0, 7):
        pen.oval(50 + shift, top - 2.5, 3.2, 3.2, look.accent, "ball", 0.9)


def _icing(pen: Pen, top: float, radius: float, icing: Colour) -> None:
    drops = max(4, round(radius / 4))
    for drop in range(drops):
        x = 50 - radius + radius * (2 * drop + 1) / drops
        length = 4 + 4 * abs(math.sin(drop * 2.4 + radius))
        pen.block(x - radius / drops, top - 1, x + radius / drops, top + length, icing, radius / drops, "flat", 0.4)
    pen.oval(50, top, radius, 4, mix(icing, WHITE, 0.3), "flat", 0.3)


@_kind
def _teddy(pen: Pen, look: Look) -> None:
    head, body = _span(15, 19, look.knobs[0]), _span(17, 22, look.knobs[1])
    fur, pale = look.body, mix(look.body, WHITE, 0.6)
    neck = FLOOR - 2 * body - 2
    for side in (-1, 1):
        pen.oval(50 + side * head * 0.8, neck - head * 1.35, 7, 7, fur, gloss=0.05)
        pen.oval(50 + side * head * 0.8, neck - head * 1.35, 4, 4, pale, gloss=0.05)
        pen.oval(50 + side * (body + 2), neck + 14, 7, 12, fur, gloss=0.05)
    pen.oval(50, FLOOR - body - 1, body, body + 1, pen.pattern, gloss=0.1)
    for side in (-1, 1):
        pen.oval(50 + side * body * 0.85, FLOOR - 8, 10, 9, fur, gloss=0.05)
        pen.oval(50 + side * body * 0.9, FLOOR - 7, 5.5, 5.5, pale, gloss=0.05)
    pen.oval(50, neck - head * 0.5, head, head * 0.95, fur, gloss=0.05)
    pen.oval(50, neck - head * 0.2, head * 0.46, head * 0.38, pale, gloss=0.05)
    pen.oval(50, neck - head * 0.32, 3, 2, BLACK, gloss=0.8)
    for side in (-1, 1):
        pen.oval(50 + side * head * 0.4, neck - head * 0.65, 2, 2.2, BLACK, gloss=0.9)


@_kind
def _camera(pen: Pen, look: Look) -> None:
    wide, top, lens = _span(32, 38, look.knobs[0]), _span(48, 54, look.knobs[1]), _span(14, 17, look.knobs[2])
    x = 50 + _span(-8, 8, look.knobs[3])
    pen.block(50 - wide + 5, top - 4, 50 - wide + 15, top + 2, STEEL, 1.5, gloss=0.8)
    pen.shape([(x - 12, top + 1), (x - 8, top - 9), (x + 8, top - 9), (x + 12, top + 1)], look.accent, "flat", 0.4)
    pen.block(50 - wide, top, 50 + wide, FLOOR, look.accent, 4, "roll", 0.4)
    pen.block(50 - wide, top + 9, 50 + wide, FLOOR - 6, pen.pattern, 0.5, "flat", 0.15)
    middle = (top + FLOOR) / 2 + 1
    pen.oval(x, middle, lens + 2, lens + 2, STEEL, "ball", 0.9)
    pen.oval(x, middle, lens, lens, BLACK, "ball", 0.6)
    pen.oval(x, middle, lens * 0.66, lens * 0.66, (44, 58, 92), "ball", 1.0)
    pen.oval(x - 3, middle - 3, lens * 0.2, lens * 0.2, (190, 205, 235), "flat", 0.8)
    pen.block(50 + wide - 14, top + 2.5, 50 + wide - 5, top + 7, mix(WHITE, STEEL, 0.3), 1, "flat", 0.8)


@_kind
def _headphones(pen: Pen, look: Look) -> None:
    span, top = _span(25, 31, look.knobs[0]), _span(12, 22, look.knobs[1])
    cup, tall = _span(8, 12, look.knobs[2]), _span(15, 19, look.knobs[3])
    middle = FLOOR - tall
    arch = oval_points(50, middle - 6, span, middle - 6 - top, (0.5, 1.0))
    pen.stroke(arch, 6.5, look.dark, "ball", 0.5)
    pen.stroke([(x, y + 2.5) for x, y in arch[10:39]], 4.5, look.trim, "ball", 0.2)
    for side in (-1, 1):
        pen.oval(50 + side * (span - 7), middle, cup * 0.7, tall * 0.95, BLACK, "ball", 0.15)
        pen.oval(50 + side * span, middle, cup, tall, pen.pattern, "ball", 0.6)
        pen.oval(50 + side * (span + 1), middle, cup * 0.5, tall * 0.5, look.accent, "ball", 0.8)


@_kind
def _watch(pen: Pen, look: Look) -> None:
    case, strap = _span(19, 25, look.knobs[0]), _span(9, 13, look.knobs[1])
    metal = mix(STEEL, (214, 176, 92), float(look.knobs[2] > 0.5) * 0.9)
    pen.lathe([(strap * 0.8, 6), (strap, 28), (strap, 68), (strap * 0.8, FLOOR)], pen.pattern, 0.2)
    for y in (78, 82, 86):
        pen.oval(50, y, 1, 1, look.dark, "flat")
    pen.block(50 + case - 1, 45, 50 + case + 5, 51, metal, 1.5, "roll", 0.9)
    pen.oval(50, 48, case, case, metal, "ball", 1.0)
    pen.oval(50, 48, case - 3, case - 3, mix(look.trim, WHITE, 0.6 * look.knobs[3]), "flat", 0.3)
    for hour in range(12):
        out = math.cos(hour * math.tau / 12), math.sin(hour * math.tau / 12)
        pen.stroke([(50 + out[0] * (case - k), 48 + out[1] * (case - k)) for k in (5, 7)], 1.1, look.dark)
    for turn, length, width in ((look.knobs[4], 0.45, 2.0), (look.knobs[5], 0.68, 1.3)):
        angle = turn * math.tau
        tip = (50 + case * length * math.cos(angle), 48 + case * length * math.sin(angle))
        pen.stroke([(50, 48), tip], width, BLACK)
    pen.oval(50, 48, 1.8, 1.8, look.accent, "ball", 0.6)


@_kind
def _sneaker(pen: Pen, look: Look) -> None:
    ankle, sole = _span(36, 50, look.knobs[0]), _span(6, 10, look.knobs[1])
    low = FLOOR - sole
    heel = [(11, low + 3), (10, ankle + 16), (8, ankle - 4), (20, ankle + 2), (37, ankle - 2), (46, 62)]
    upper = [*heel, (64, 68), (84, 70), (93, 80), (92, low + 3)]
    pen.oval(25, ankle + 2, 15, 4, look.dark, "flat", 0.0)
    pen.shape(smooth(upper), look.body, "ball", 0.2)
    pen.shape(smooth([(20, low), (28, 62), (44, 62), (52, 72), (58, low)]), pen.pattern, "flat", 0.2)
    pen.shape(smooth([(70, low + 2), (75, 70), (86, 68), (95, 80), (93, low + 2)]), look.trim, "ball", 0.4)
    pen.shape(smooth([(9, low), (9, ankle + 14), (14, ankle + 14), (19, low)]), look.accent, "tube", 0.3)
    for lace in range(4):
        x, y = 42 + lace * 7, _span(ankle + 14, 65, 0.4 + lace * 0.2)
        pen.stroke([(x - 3, y + 6), (x + 4, y)], 2.0, WHITE)
    pen.block(8, low, 94, FLOOR, WHITE, sole * 0.45, "roll", 0.3)
    pen.block(8, FLOOR - 2.4, 94, FLOOR, look.accent, 1, "flat", 0.1)


@_kind
def _backpack(pen: Pen, look: Look) -> None:
    wide, top = _span(23, 30, look.knobs[0]), _span(16, 26, look.knobs[1])
    pocket = _span(56, 64, look.knobs[2])
    pen.stroke(oval_points(50, top + 2, 8, 9, (0.5, 1.0)), 3.4, look.dark)
    for side in (-1, 1):
        pen.block(50 + side * wide - 5, 50, 50 + side * wide + 5, FLOOR - 2, look.dark, 4)
    body = [(50 - wide, FLOOR), (50 - wide, top + 4), (50 - wide * 0.6, top - 3), (50 + wide * 0.6, top - 3),
            (50 + wide, top + 4), (50 + wide, FLOOR), (50, FLOOR + 1)]  # fmt: skip
    pen.shape(smooth(body), pen.pattern, "ball", 0.15)
    pen.stroke(oval_points(50, top + 18, wide * 0.78, 13, (0.52, 0.98)), 1.2, look.dark)
    pen.block(50 - wide * 0.76, pocket, 50 + wide * 0.76, FLOOR - 4, look.accent, 5, "ball", 0.15)
    pen.stroke([(50 - wide * 0.62, pocket + 6), (50 + wide * 0.62, pocket + 6)], 1.2, look.dark)
    pen.stroke([(50 + wide * 0.5, pocket + 6), (50 + wide * 0.5, pocket + 12)], 1.6, STEEL, gloss=0.8)
    pen.block(43, top + 18, 57, top + 26, look.trim, 2, "flat")


@_kind
def _chair(pen: Pen, look: Look) -> None:
    wide, seat, top = _span(19, 25, look.knobs[0]), _span(56, 62, look.knobs[1]), _span(10, 22, look.knobs[2])
    legs = look.dark if look.knobs[3] > 0.5 else WOOD
    for side in (-1, 1):
        pen.stroke([(50 + side * (wide - 6), seat), (50 + side * (wide - 4), FLOOR - 7)], 2.8, mix(legs, BLACK, 0.4))
        pen.stroke([(50 + side * (wide - 1), top + 4), (50 + side * (wide - 1), seat)], 3.4, legs)
        leg = [(50 + side * (wide + 1), seat + 4), (50 + side * (wide + 5), FLOOR - 1.5)]
        pen.stroke(leg, 3.6, legs, "tube", 0.4)
    if look.knobs[4] > 0.5:
        pen.block(50 - wide, top, 50 + wide, seat - 8, pen.pattern, 7, "ball", 0.15)
    else:
        for slat in range(3):
            y = top + slat * (seat - top) / 3.4
            pen.block(50 - wide, y, 50 + wide, y + 7, pen.pattern, 2.5, "roll", 0.3)
    top_of_seat = [(50 - wide, seat - 4), (50 + wide, seat - 4), (54 + wide, seat + 4), (46 - wide, seat + 4)]
    pen.shape(top_of_seat, look.body, "roll")
    pen.block(46 - wide, seat + 2, 54 + wide, seat + 8, pen.pattern, 3, "roll", 0.2)


@_kind
def _bottle(pen: Pen, look: Look) -> None:
    wide, neck = _span(13, 20, look.knobs[0]), _span(4.5, 8, look.knobs[1])
    shoulder, top = _span(34, 48, look.knobs[2]), _span(10, 18, look.knobs[3])
    outline = [(neck, top), (neck, shoulder - 12), (wide * 0.8, shoulder - 5), (wide, shoulder + 2)]
    pen.lathe([*outline, (wide, FLOOR - 3), (wide - 3, FLOOR)], look.body, 0.9)
    pen.lathe([(wide, shoulder + 8), (wide, FLOOR - 9)], pen.pattern, 0.3)
    pen.oval(50, (shoulder + FLOOR) / 2, wide * 0.55, wide * 0.55, mix(look.trim, WHITE, 0.4), "tube", 0.3)
    pen.oval(50, (shoulder + FLOOR) / 2, wide * 0.34, wide * 0.34, look.accent, "tube", 0.3)
    pen.block(50 - neck - 1.5, top - 7, 50 + neck + 1.5, top + 3, look.accent, 1.5, gloss=0.7)


@_kind
def _guitar(pen: Pen, look: Look) -> None:
    lower, upper = _span(20, 25, look.knobs[0]), _span(13, 18, look.knobs[1])
    waist = _span(10, 13, look.knobs[2])
    pen.lathe([(4.5, 5), (4, 14), (3, 16)], look.dark, 0.4)
    for peg in range(3):
        for side in (-1, 1):
            pen.oval(50 + side * 6, 7 + 3.2 * peg, 1.5, 1.1, STEEL, gloss=0.9)
    outer = [(7, 44), (upper, 46), (upper, 57), (waist, 64), (lower, 70), (lower + 1, 84), (lower * 0.6, 91)]
    both = [(50 + x, y) for x, y in outer] + [(50 - x, y) for x, y in reversed(outer)]
    pen.shape(smooth(both), look.dark, "flat", 0.3)
    pen.shape(smooth([(50 + (x - 50) * 0.93, 67 + (y - 67) * 0.94) for x, y in both]), pen.pattern, "ball", 0.7)
    pen.lathe([(3, 15), (3.4, 56)], WOOD, 0.4)
    for fret in range(9):
        pen.stroke([(47, 18 + fret * 4.2), (53, 18 + fret * 4.2)], 0.5, STEEL)
    pen.oval(50, 60, 6.5, 6.5, look.accent, "flat")
    pen.oval(50, 60, 5.2, 5.2, BLACK, "flat", 0.0)
    pen.block(42, 76, 58, 79, look.dark, 1, "roll")
    for string in (-1.6, -0.5, 0.5, 1.6):
        pen.stroke([(50 + string, 14), (50 + string, 77)], 0.35, WHITE)


@_kind
def _handbag(pen: Pen, look: Look) -> None:
    wide, flare, top = _span(22, 28, look.knobs[0]), _span(3, 11, look.knobs[1]), _span(46, 56, look.knobs[2])
    handle = oval_points(50, top + 2, wide * 0.62, _span(20, 32, look.knobs[3]), (0.5, 1.0))
    pen.stroke(handle, 3.6, look.dark, "ball", 0.4)
    half = [(wide, top), (wide + flare, FLOOR - 6), (wide + flare - 5, FLOOR)]
    body = [(50 + x, y) for x, y in half] + [(50 - x, y) for x, y in reversed(half)]
    pen.shape(body, pen.pattern, "ball", 0.35)
    edge = wide * 0.9
    flap = [(50 - wide, top), (50 + wide, top), (50 + edge, top + 12), (50, top + 24), (50 - edge, top + 12)]
    pen.shape(smooth(flap, 2), look.accent, "roll", 0.4)
    pen.oval(50, top + 18, 3, 3, (220, 184, 98), "ball", 1.0)
