"""Draws one walking person, seen from any side, in whole numbers.

Lengths of the body are in 1/1000 of the usual body height. A point of the body is given by how
far it lies forward (the way the person walks), to the person's left, and up from the ground.
Trunk, head, skirt and bag are upright tubes whose surface is unrolled in a `Wardrobe`; limbs are
polygons. The camera looks from the front and slightly down, without perspective.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from stf_jax.prepare.drawing.appearance import Appearance, Colour
from stf_jax.prepare.drawing.cloth import Wardrobe, darker
from stf_jax.prepare.drawing.exact import ARCSINE, TURN, UNIT, cosine, hypotenuse, sine
from stf_jax.prepare.drawing.polygons import fill_polygon, stroke


@dataclass(frozen=True)
class Stance:
    """Where and how a person is drawn."""

    foot_x: int  # pixels of the canvas
    foot_y: int
    tall: int  # pixels per 1000 body units, vertically
    wide: int  # pixels per 1000 body units, horizontally
    heading: int  # 0 towards the camera, 64 to the right, 128 away, 192 to the left
    phase: int  # of the gait, 1/256 of two steps
    standing: bool
    pitch: int  # how much lower near things appear, 1/256
    light: int  # direction of the light, -64 (left) .. 64 (right)


@dataclass(frozen=True)
class _View:
    canvas: Image.Image
    draw: ImageDraw.ImageDraw
    stance: Stance

    def point(self, forward: int, left: int, up: int) -> tuple[int, int]:
        """The pixel of a point of the body."""
        stance = self.stance
        sin, cos = sine(stance.heading), cosine(stance.heading)
        right = (forward * sin + left * cos) // UNIT
        nearer = (forward * cos - left * sin) // UNIT
        y = stance.foot_y - (up * 256 - nearer * stance.pitch) * stance.tall // 256_000
        return stance.foot_x + right * stance.wide // 1000, y

    def across(self, length: int) -> int:
        """Pixels of a horizontal length."""
        return max(1, length * self.stance.wide // 1000)

    def breadth(self, side: int, front: int) -> int:
        """Half-width of an upright elliptic tube, as seen at the present heading."""
        sin, cos = sine(self.stance.heading), cosine(self.stance.heading)
        return hypotenuse(side * cos, front * sin) // UNIT


def _limb(
    view: _View,
    points: tuple[tuple[int, int], ...],
    widths: tuple[int, ...],
    inks: tuple[Colour, ...],
) -> None:
    """A chain of tapering capsules; the inner part lighter, so that it looks round.

    Args:
        points: pixels of the joints.
        widths: half-widths at the joints, body units.
        inks: one colour per segment; the first is drawn last.
    """
    segments = list(zip(points[:-1], points[1:], widths[:-1], widths[1:], inks, strict=True))
    for percent, brightness in ((100, 74), (66, 100)):
        for (x0, y0), (x1, y1), first, last, ink in reversed(segments):
            length = max(1, hypotenuse(x1 - x0, y1 - y0))
            colour = darker(ink, brightness)
            start = max(1, view.across(first) * percent // 100)
            end = max(1, view.across(last) * percent // 100)
            nx, ny = -(y1 - y0) * 256 // length, (x1 - x0) * 256 // length
            fill_polygon(
                view.canvas,
                (
                    (x0 + nx * start // 256, y0 + ny * start // 256),
                    (x1 + nx * end // 256, y1 + ny * end // 256),
                    (x1 - nx * end // 256, y1 - ny * end // 256),
                    (x0 - nx * start // 256, y0 - ny * start // 256),
                ),
                colour,
            )
            view.draw.ellipse((x0 - start, y0 - start, x0 + start, y0 + start), fill=colour)
            view.draw.ellipse((x1 - end, y1 - end, x1 + end, y1 + end), fill=colour)


def _tube(
    view: _View,
    surface: np.ndarray,
    centre: tuple[int, int],
    up: tuple[int, int],
    profile: tuple[tuple[int, int], ...],
) -> None:
    """Shows the visible half of an unrolled surface on an upright tube.

    Args:
        surface: uint8 [rows, 256, 4].
        centre: forward and left of the axis.
        up: heights of the upper and the lower end.
        profile: (per mille of the way down, half-width), from 0 to 1000.
    """
    x, top = view.point(*centre, up[0])
    bottom = view.point(*centre, up[1])[1]
    rows = max(1, bottom - top)
    places = np.arange(rows, dtype=np.int64) * 1000 // rows
    half = np.zeros(rows, dtype=np.int64)
    for (start, first), (end, last) in pairwise(profile):
        inside = (places >= start) & (places <= end)
        half[inside] = first + (last - first) * (places[inside] - start) // max(1, end - start)
    half = np.maximum(1, half * view.stance.wide // 1000).astype(np.int32)
    reach = int(half.max())
    columns = np.arange(-reach, reach + 1, dtype=np.int32)
    ratio = columns[None, :] * 256 // half[:, None]
    seen = (ratio >= -256) & (ratio <= 256)
    angle = ARCSINE[np.clip(ratio, -256, 256) + 256]
    source_rows = np.arange(rows, dtype=np.int64) * surface.shape[0] // rows
    pixels = surface[source_rows[:, None], (angle - view.stance.heading) % TURN]
    brightness = _BRIGHTNESS[angle - view.stance.light + 128]
    shaded = pixels[..., :3] * brightness[..., None] >> 8  # at most 255 * 256: fits 16 bits
    mask = Image.fromarray(pixels[..., 3] * seen)
    view.canvas.paste(Image.fromarray(shaded.astype(np.uint8)), (x - reach, top), mask)


# By angle to the light, -128..128: 256 is the plain colour.
_BRIGHTNESS = np.array([184 + 72 * cosine(a) // UNIT for a in range(-128, 129)], dtype=np.uint16)


def _swing(start: tuple[int, int, int], length: int, angle: int) -> tuple[int, int, int]:
    forward, left, up = start
    return forward + length * sine(angle) // UNIT, left, up - length * cosine(angle) // UNIT


def _leg_joints(person: Appearance, stance: Stance, side: int) -> tuple[tuple[int, int, int], ...]:
    """Hip, knee, ankle and toe."""
    phase = stance.phase if side > 0 else stance.phase + TURN // 2
    swing = 0 if stance.standing else person.stride * sine(phase) // UNIT
    lifted = 0 if stance.standing else max(0, cosine(phase))
    flex = 2 + 34 * lifted // UNIT
    hip = (0, side * 46 * person.girth // 1000, 490 * person.height // 1000)
    thigh, shin = 225 * person.height // 1000, 230 * person.height // 1000
    knee = _swing(hip, thigh, swing)
    ankle = _swing(knee, shin, swing - flex)
    toe = _swing(ankle, 78, 60 + swing - flex if lifted else 60)
    return hip, knee, ankle, toe


def _draw_leg(view: _View, person: Appearance, side: int, drop: int) -> None:
    outfit = person.outfit
    joints = _leg_joints(person, view.stance, side)
    hip, knee, ankle, toe = (view.point(forward, left, up - drop) for forward, left, up in joints)
    girth = person.girth
    bare = outfit.legwear != "trousers"
    thigh = outfit.skin if outfit.legwear in ("skirt", "long_skirt") else outfit.legs
    shin = outfit.skin if bare else outfit.legs
    _limb(view, (ankle, toe), (26, 20), (outfit.shoes,))
    widths = (58 * girth // 1000, 43 * girth // 1000, 29 * girth // 1000)
    _limb(view, (hip, knee, ankle), widths, (thigh, shin))
    if outfit.legwear == "trousers" and person.cuffs:
        x, y = (a + (b - a) * 22 // 100 for a, b in zip(ankle, knee, strict=True))
        _limb(view, ((x, y), ankle), (37 * girth // 1000, 33 * girth // 1000), (outfit.accent,))
    # The outer seam shows unless the other leg's side faces the camera.
    outer = -side * sine(view.stance.heading)
    if bare or not person.side_stripe or outer <= -UNIT // 3:
        return
    shift = side * cosine(view.stance.heading) * view.across(34) // UNIT
    line = [(x + shift, y) for x, y in (hip, knee, ankle)]
    stroke(view.canvas, line, max(2, view.across(26)), outfit.accent)


def _draw_arm(view: _View, person: Appearance, side: int, drop: int) -> None:
    outfit, stance = person.outfit, view.stance
    phase = stance.phase if side < 0 else stance.phase + TURN // 2
    swing = 0 if stance.standing else (person.stride - 1) * sine(phase) // UNIT
    carries = person.bag == "shopping" and side == person.bag_side
    if carries:
        swing //= 3
    aside = side * (100 * person.girth // 1000 + 12)
    shoulder = (0, aside, 805 * person.height // 1000 - drop)
    elbow = _swing(shoulder, 165 * person.height // 1000, swing)
    elbow = (elbow[0], elbow[1] + side * 14, elbow[2])
    wrist = _swing(elbow, 150 * person.height // 1000, swing + (2 if carries else 12))
    points = [view.point(*point) for point in (shoulder, elbow, wrist)]
    if carries:
        x, y = points[2]
        half, deep = view.across(62), 150 * stance.tall // 1000
        view.draw.rectangle((x - half, y + deep // 6, x + half, y + deep), fill=outfit.accent)
        view.draw.rectangle(
            (x - half // 2, y + deep // 3, x + half // 2, y + deep * 3 // 4),
            fill=darker(outfit.accent, 60),
        )
    sleeve = outfit.second if person.sleeve_second != person.swap else outfit.top
    girth = person.girth
    forearm = outfit.skin if outfit.short_sleeves else sleeve
    _limb(view, (points[2], points[2]), (24, 22), (outfit.skin,))
    widths = (36 * girth // 1000, 29 * girth // 1000, 21 * girth // 1000)
    _limb(view, (points[0], points[1], points[2]), widths, (sleeve, forearm))


def _draw_satchel(view: _View, person: Appearance, drop: int) -> None:
    left = person.bag_side * (118 * person.girth // 1000)
    x, y = view.point(0, left, 520 * person.height // 1000 - drop)
    half = view.across(view.breadth(34, 84))
    deep = 60 * view.stance.tall // 1000
    colour = person.outfit.accent
    view.draw.rectangle((x - half, y - deep, x + half, y + deep), fill=darker(colour, 75))
    view.draw.rectangle((x - half + 2, y - deep + 2, x + half - 2, y), fill=colour)


def _draw_head(view: _View, person: Appearance, wardrobe: Wardrobe, drop: int) -> None:
    crown = 1000 * person.height // 1000 - drop
    half = view.breadth(58, 66)
    outfit = person.outfit
    facing = cosine(view.stance.heading)
    if person.haircut == "ponytail" and person.hat != "hood" and facing > 0:
        _draw_ponytail(view, person, crown)
    profile = ((0, 16), (60, 32), (160, half - 8), (330, half), (620, half - 2))
    profile += ((800, half - 12), (930, half - 28), (1000, half - 40))
    if person.haircut == "bun" and person.hat == "none":
        x, y = view.point(-28, 0, crown + 2)
        size = view.across(27)
        view.draw.ellipse((x - size, y - size, x + size, y + size), fill=outfit.hair)
    _tube(view, wardrobe.head, (10, 0), (crown, crown - 150), profile)
    if person.haircut == "long" or person.hat == "hood":
        length = 205 if person.hat != "hood" else 165
        top = crown - (28 if person.hat == "none" else 58)
        mantle = ((0, half - 10), (250, half + 8), (800, half + 10), (1000, half - 6))
        _tube(view, wardrobe.long_hair, (0, 0), (top, crown - length), mantle)
    if person.haircut == "ponytail" and person.hat != "hood" and facing <= 0:
        _draw_ponytail(view, person, crown)
    if person.hat == "cap" and facing > -UNIT // 3:
        colour = outfit.second if person.hat_second else outfit.accent
        start, end = view.point(36, 0, crown - 40), view.point(82, 0, crown - 46)
        _limb(view, (start, end), (20, 12), (darker(colour, 80),))


def _draw_ponytail(view: _View, person: Appearance, crown: int) -> None:
    start, end = view.point(-62, 0, crown - 40), view.point(-84, 0, crown - 190)
    _limb(view, (start, end), (26, 14), (person.outfit.hair,))


def draw_person(
    canvas: Image.Image, person: Appearance, wardrobe: Wardrobe, stance: Stance
) -> None:
    """Draws a person into an RGB canvas, in place; whatever lies outside is cut off."""
    view = _View(canvas, ImageDraw.Draw(canvas), stance)
    # The lower foot stands on the ground; the body falls and rises with the steps.
    drop = min(_leg_joints(person, stance, side)[2][2] for side in (-1, 1)) - 24  # the ankles
    away = cosine(stance.heading) < 0
    near = -1 if sine(stance.heading) > 0 else 1

    def backpack() -> None:
        centre = (-(64 * person.girth // 1000 + 46), 0)
        half = view.breadth(88, 62)
        profile = ((0, half - 26), (140, half), (900, half + 4), (1000, half - 10))
        up = (800 * person.height // 1000 - drop, 545 * person.height // 1000 - drop)
        _tube(view, wardrobe.backpack, centre, up, profile)

    _draw_arm(view, person, -near, drop)
    if person.bag == "satchel" and person.bag_side != near:
        _draw_satchel(view, person, drop)
    if person.bag == "backpack" and not away:
        backpack()
    _draw_leg(view, person, -near, drop)
    _draw_leg(view, person, near, drop)
    height, girth = person.height, person.girth
    hips = view.breadth(106 * girth // 1000, 84 * girth // 1000)
    if person.outfit.legwear in ("skirt", "long_skirt"):
        end = 300 if person.outfit.legwear == "skirt" else 140
        stepping = abs(sine(stance.heading)) * 3 * person.stride // UNIT
        flare = hips + 34 + (stepping if person.outfit.legwear == "skirt" else 2 * stepping)
        up = (530 * height // 1000 - drop, end * height // 1000 - drop)
        _tube(view, wardrobe.skirt, (0, 0), up, ((0, hips - 8), (300, hips + 10), (1000, flare)))
    low = view.point(0, 0, 800 * height // 1000 - drop)
    high = view.point(8, 0, 890 * height // 1000 - drop)
    _limb(view, (low, high), (36, 34), (darker(person.outfit.skin, 90),))
    chest = view.breadth(120 * girth // 1000, 86 * girth // 1000)
    waist = view.breadth(98 * girth // 1000, 80 * girth // 1000)
    profile = ((0, chest * 46 // 100), (40, chest * 80 // 100), (110, chest), (350, chest - 4))
    profile += ((650, waist), (1000, hips))
    up = (848 * height // 1000 - drop, person.hem * height // 1000 - drop)
    _tube(view, wardrobe.top, (0, 0), up, profile)
    if person.bag == "backpack" and away:
        backpack()
    if person.bag == "satchel" and person.bag_side == near:
        _draw_satchel(view, person, drop)
    _draw_head(view, person, wardrobe, drop)
    _draw_arm(view, person, near, drop)
