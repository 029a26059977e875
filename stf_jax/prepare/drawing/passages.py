"""What happens while one person passes one camera, frame by frame.

A passage is decided before anything is drawn: the way the person walks, turns and stands still,
who crosses the picture, what stands in between, and the errors of the detector's boxes. Places in
the picture are per mille of its width or height.
"""

from dataclasses import dataclass

import numpy as np

from stf_jax.prepare.drawing.exact import TURN, UNIT, between, chance, sine
from stf_jax.prepare.drawing.scenes import Camera, draw_light
from stf_jax.prepare.drawing.streets import LENGTH, OBSTACLES


@dataclass(frozen=True)
class Passer:
    """Another person who crosses: a stranger, or somebody else of the same half."""

    stranger: bool
    number: int
    figure: int


@dataclass(frozen=True)
class Moment:
    """One frame of a passage."""

    heading: int
    phase: int
    standing: bool
    scroll: int  # of the street behind
    aside: int  # how far from the middle the person is
    shift: tuple[int, int]  # of the detector's box
    figure: int  # height of a usual person
    smear: int  # rounds of motion blur
    passer: tuple[Passer, int, int, int] | None  # who, where, heading, phase
    obstacle: tuple[str, int, int] | None  # kind, where, shade


@dataclass(frozen=True)
class Passage:
    """All frames of a tracklet in time order, and its light (weather, hour) in 1/256."""

    gains: tuple[int, int, int]
    moments: tuple[Moment, ...]


def _window(rng: np.random.Generator, length: int, low: int, high: int) -> range:
    """A random stretch of frames; low and high are per mille of the length."""
    count = min(length, max(3, between(rng, low * length // 1000, high * length // 1000)))
    start = between(rng, 0, length - count)
    return range(start, start + count)


def _headings(rng: np.random.Generator, length: int, base: int) -> list[int]:
    """The direction walked; two passages in three hold a turn, some of them lasting."""
    headings = [base + 5 * sine(12 * t + between(rng, 0, 3)) // UNIT for t in range(length)]
    if chance(rng, 650):
        window = _window(rng, length, 250, 600)
        reach = between(rng, 44, 118) * (1 if chance(rng, 500) else -1)
        lasting = chance(rng, 350)
        for t in range(window.start, length):
            done = t - window.start
            if lasting:
                headings[t] += reach * min(done, len(window)) // len(window)
            elif t in window:
                headings[t] += reach * sine(done * (TURN // 2) // len(window)) // UNIT
    return headings


def _slide(place: int, count: int, reach: int, side: int) -> int:
    """Even motion across the picture, from -reach * side to reach * side."""
    return side * (2 * reach * place // max(1, count - 1) - reach)


def _crossings(
    rng: np.random.Generator, headings: list[int], people: range, own: int, difficulty: int
) -> tuple[dict[int, tuple[Passer, int, int, int]], list[int]]:
    """Who else is in the frames, and how far the tracked person is pushed aside."""
    length = len(headings)
    passers: dict[int, tuple[Passer, int, int, int]] = {}
    others = len(people) - (own in people)
    aside = [0] * length
    for odds in (950, 550):
        if not chance(rng, odds * difficulty // 1000):
            continue
        stranger = not others or chance(rng, 600)
        number = between(rng, 0, (1 << 20) if stranger else others - 1)
        if not stranger:
            number += people.start
            number += own in people and number >= own
        passer = Passer(stranger, number, between(rng, 900, 1080))
        side = 1 if chance(rng, 500) else -1
        pace = between(rng, 15, 26)
        if chance(rng, 500):  # walks through, before the tracked person
            window = _window(rng, length, 180, 380)
            for done, t in enumerate(window):
                where = _slide(done, len(window), 900, side)
                passers[t] = (passer, where, 64 * side + between(rng, -6, 6), pace * t)
        else:  # the tracker drifts to the wrong person, and comes back
            window = _window(rng, length, 220, 220 + 260 * difficulty // 1000)
            pushed = side * between(rng, 480, 850)
            for done, t in enumerate(window):
                settled = min(done + 1, len(window) - done, 3)
                where = -side * (900 - 300 * settled) + between(rng, -70, 70)
                aside[t] = pushed * settled // 3
                passers[t] = (passer, where, headings[t] + between(rng, -10, 10), pace * t)
    return passers, aside


def _obstacles(
    rng: np.random.Generator, length: int, difficulty: int
) -> dict[int, tuple[str, int, int]]:
    if not chance(rng, 900 * difficulty // 1000):
        return {}
    kind = OBSTACLES[between(rng, 0, len(OBSTACLES) - 1)]
    shade = between(rng, 0, 255)
    window = _window(rng, length, 200, 250 + 300 * difficulty // 1000)
    side = 1 if chance(rng, 500) else -1
    if chance(rng, 350):  # stays in the way
        where = between(rng, -250, 250)
        return dict.fromkeys(window, (kind, where, shade))
    return {
        t: (kind, _slide(done, len(window), 1100, side), shade) for done, t in enumerate(window)
    }


def decide_passage(
    rng: np.random.Generator,
    camera: Camera,
    length: int,
    people: range,
    own: int,
    difficulty: int,
    occlusion: int,
) -> Passage:
    """Decides all frames of one tracklet.

    Args:
        rng: of this tracklet.
        camera: where it is seen.
        length: frames.
        people: numbers (without gaps) of those who may cross, besides strangers; may be empty.
        own: number of the tracked person, who does not cross; -1 where it has none.
        difficulty: 0..1000; scales changes of light and of pace.
        occlusion: 0..1000; scales crossings, obstacles, bad boxes and blur.
    """
    base = camera.heading + between(rng, -26, 26)
    if chance(rng, difficulty * 4 // 10):  # against the stream
        base += TURN // 2
    headings = _headings(rng, length, base)
    passers, aside = _crossings(rng, headings, people, own, occlusion)
    obstacles = _obstacles(rng, length, occlusion)
    still = _window(rng, length, 150, 420) if chance(rng, 300 + difficulty * 3 // 10) else range(0)
    figure = camera.figure * between(rng, 940, 1040) // 1000
    jitter = 12 + 30 * occlusion // 1000
    phase, scroll = between(rng, 0, 255), between(rng, 0, 1000 * LENGTH)
    pace = between(rng, 15, 26)
    gains = draw_light(rng, difficulty)
    moments: list[Moment] = []
    for t in range(length):
        standing = t in still
        if not standing:
            phase += pace
            scroll += 5 * pace * sine(headings[t]) // UNIT
        if standing and moments and moments[-1].standing:  # all but the same picture again
            shift, scaled = moments[-1].shift, moments[-1].figure
        else:
            shift = (between(rng, -jitter, jitter), between(rng, -jitter, jitter))
            scaled = figure * (1000 + between(rng, -jitter, jitter)) // 1000
            if chance(rng, occlusion * 9 // 100):  # a bad box: half of the person
                shift = (shift[0], shift[1] + (300 if chance(rng, 500) else -300))
        moments.append(
            Moment(
                heading=headings[still.start] if standing else headings[t],
                phase=phase,
                standing=standing,
                scroll=scroll,
                aside=aside[t],
                shift=shift,
                figure=scaled,
                smear=between(rng, 1, 2) if chance(rng, occlusion * 14 // 100) else 0,
                passer=passers.get(t),
                obstacle=obstacles.get(t),
            )
        )
    return Passage(gains=gains, moments=tuple(moments))
