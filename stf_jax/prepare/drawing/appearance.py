"""What a drawn person looks like: colours shared with look-alikes, details that are its own."""

from dataclasses import dataclass

import numpy as np

from stf_jax.prepare.drawing.exact import between, chance, generator

Colour = tuple[int, int, int]


def colours(text: str) -> tuple[Colour, ...]:
    """Colours from words of hexadecimal digits: `1e1e22` is (30, 30, 34)."""
    return tuple((c[0], c[1], c[2]) for c in map(bytes.fromhex, text.split()))


PATTERNS = (
    "plain",
    "hoops",
    "pinstripes",
    "checks",
    "dots",
    "diagonal",
    "zigzag",
    "diamonds",
    "halves",
    "front_back",
    "band",
    "tartan",
)
LOGOS = ("none", "disc", "square", "triangle", "cross", "ring", "bars", "star")
BAGS = ("none", "backpack", "satchel", "shopping")
HAIRCUTS = ("short", "long", "bald", "ponytail", "bun")
HATS = ("none", "cap", "beanie", "hood")
LEGWEAR = ("trousers", "shorts", "skirt", "long_skirt")

_CLOTH = colours(
    "1e1e22 46484e 8c8e92 e2e0da 1c264e 2e54a0 7ca8d6 1a6e70 225e30 707632 dec03c e07c28 "
    "be2428 6a1a2c de82a0 6a3a84 60402a ccb48c"
)
_LEG_CLOTH = colours("202228 2c3a60 586e96 68645e b0a080 4e3828 ceccc6 424e32")
_SKIN = colours("eeccb2 deb494 be8c68 8e6042 5e3e2c")
_HAIR = colours("1a1616 3e2a1c 704c2c c4a060 969492 80381c")
_SHOES = colours("18181a 402c20 dcdcdc 962828")

BLOCK = 8
"""People per block; the look-alikes of a block wear the same colours."""

_OUTFIT, _SHARED_OUTFIT, _DETAILS, _ALIKE = range(4)


@dataclass(frozen=True)
class Outfit:
    """All that a colour histogram can see; shared by look-alikes."""

    top: Colour
    second: Colour
    legs: Colour
    shoes: Colour
    accent: Colour
    skin: Colour
    hair: Colour
    legwear: str
    short_sleeves: bool


@dataclass(frozen=True)
class Appearance:
    """A person's outfit and own details. Lengths are in 1/1000 of the usual body height."""

    outfit: Outfit
    pattern: str
    swap: bool  # second colour where the pattern would have the top colour
    cycles: int  # repeats of the pattern over the torso's height, twice that round it
    sleeve_second: bool  # sleeves in the second colour
    jacket: bool  # open at the front: a shirt shows, from the front only
    front_logo: str
    back_logo: str
    logo_on_side: int  # -1 right breast, 0 middle, 1 left breast
    bag: str
    bag_side: int  # -1 right, 1 left
    side_stripe: bool  # along the outer seam of the trousers
    cuffs: bool
    skirt_pattern: str
    hem: int  # height of the lower end of the top
    haircut: str
    hat: str
    hat_second: bool  # in the second colour rather than the accent
    glasses: bool
    beard: bool
    height: int
    girth: int
    stride: int  # swing of the thigh, 1/256 turns


def _pick(rng: np.random.Generator, choices: tuple, weights: tuple[int, ...] | None = None):
    ends = np.cumsum(weights or [1] * len(choices))
    return choices[np.searchsorted(ends, between(rng, 0, int(ends[-1]) - 1), side="right")]


def _dyed(rng: np.random.Generator, colour: Colour, spread: int) -> Colour:
    red, green, blue = (min(255, max(0, value + between(rng, -spread, spread))) for value in colour)
    return red, green, blue


def contrast(first: Colour, second: Colour) -> int:
    """Sum over the channels of the absolute difference, 0..765."""
    return sum(abs(a - b) for a, b in zip(first, second, strict=True))


def _draw_outfit(rng: np.random.Generator) -> Outfit:
    top = _pick(rng, _CLOTH)
    second = _pick(rng, tuple(c for c in _CLOTH if contrast(c, top) > 150))
    accent = _pick(rng, tuple(c for c in _CLOTH if contrast(c, top) > 110))
    return Outfit(
        top=_dyed(rng, top, 12),
        second=_dyed(rng, second, 12),
        legs=_dyed(rng, _pick(rng, _LEG_CLOTH), 12),
        shoes=_pick(rng, _SHOES),
        accent=_dyed(rng, accent, 12),
        skin=_dyed(rng, _pick(rng, _SKIN), 6),
        hair=_dyed(rng, _pick(rng, _HAIR), 6),
        legwear=_pick(rng, LEGWEAR, (62, 14, 14, 10)),
        short_sleeves=chance(rng, 350),
    )


def draw_appearance(seed: int, group: int, person: int, difficulty: int) -> Appearance:
    """Decides what one person looks like.

    People number 8k .. 8k+7 of a group are a block; each wears the block's outfit with a
    probability of `difficulty`, else an outfit of its own. All details are its own either way.

    Args:
        seed: the data set's seed.
        group: which pool of people (the data set's own, its distractors, passers-by); any
            integer >= 0.
        person: number of the person in the group, >= 0.
        difficulty: 0..1000, the share of people in their block's outfit, per mille.
    """
    alike = chance(generator(seed, group, _ALIKE, person), difficulty)
    own = generator(seed, group, _DETAILS, person)
    outfit = _draw_outfit(
        generator(seed, group, _SHARED_OUTFIT, person // BLOCK)
        if alike
        else generator(seed, group, _OUTFIT, person)
    )
    return Appearance(
        outfit=outfit,
        pattern=_pick(own, PATTERNS, (7, 11, 10, 11, 9, 10, 9, 9, 7, 6, 5, 6)),
        swap=chance(own, 500),
        cycles=between(own, 2, 5),
        sleeve_second=chance(own, 300),
        jacket=chance(own, 220),
        front_logo=_pick(own, LOGOS, (3, 1, 1, 1, 1, 1, 1, 1)),
        back_logo=_pick(own, LOGOS, (6, 1, 1, 1, 1, 1, 1, 1)),
        logo_on_side=between(own, -1, 1),
        bag=_pick(own, BAGS, (50, 26, 14, 10)),
        bag_side=1 if chance(own, 500) else -1,
        side_stripe=chance(own, 250),
        cuffs=chance(own, 200),
        skirt_pattern=_pick(own, PATTERNS),
        hem=_pick(own, (470, 450, 380), (5, 4, 2)),
        haircut=_pick(own, HAIRCUTS, (46, 26, 8, 12, 8)),
        hat=_pick(own, HATS, (70, 14, 10, 6)),
        hat_second=chance(own, 500),
        glasses=chance(own, 200),
        beard=chance(own, 160),
        height=between(own, 890, 1040),
        girth=between(own, 870, 1180),
        stride=between(own, 13, 20),
    )
