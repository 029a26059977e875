"""From a tracklet's description to its pictures."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw

from stf_jax.prepare.drawing.appearance import Appearance, draw_appearance
from stf_jax.prepare.drawing.cloth import Wardrobe, darker, make_wardrobe
from stf_jax.prepare.drawing.exact import between, generator
from stf_jax.prepare.drawing.figures import Stance, draw_person
from stf_jax.prepare.drawing.passages import Moment, decide_passage
from stf_jax.prepare.drawing.scenes import Camera, draw_camera, take_picture
from stf_jax.prepare.drawing.streets import draw_obstacle, draw_street
from stf_jax.prepare.output import whole_file

# First keys of the random generators.
PEOPLE, _CAMERA, DISTRACTORS, _STRANGERS, _LENGTH, _PASSAGE, _FRAME = range(7)


@dataclass(frozen=True)
class Film:
    """What all pictures of a data set have in common."""

    seed: int
    difficulty: int  # 0..1000
    occlusion: int  # 0..1000
    height: int
    width: int

    @property
    def shrink(self) -> int:
        """Pixels drawn per pixel kept: small pictures are drawn finer."""
        return 3 if self.height <= 160 else 2


@dataclass(frozen=True)
class Take:
    """One tracklet to be drawn."""

    group: int  # PEOPLE or DISTRACTORS
    person: int  # number in the group, from 0
    camera: int  # from 1
    track: int  # from 0
    length: int
    others: range  # people of the same half, who may cross


def decide_length(film: Film, key: tuple[int, int, int, int], low: int, high: int) -> int:
    """Frames of the tracklet with this (group, person, camera, track)."""
    return between(generator(film.seed, _LENGTH, *key), low, high)


@lru_cache(maxsize=64)
def _dressed(film: Film, group: int, person: int) -> tuple[Appearance, Wardrobe]:
    appearance = draw_appearance(film.seed, group, person, film.difficulty)
    return appearance, make_wardrobe(appearance)


@lru_cache(maxsize=16)
def _set_up(film: Film, number: int) -> tuple[Camera, Image.Image]:
    camera = draw_camera(generator(film.seed, _CAMERA, number, 0), film.difficulty)
    rng = generator(film.seed, _CAMERA, number, 1)
    width, height = film.width * film.shrink, film.height * film.shrink
    return camera, draw_street(
        rng, camera.horizon * height // 1000, width, height, film.difficulty * 45 // 100
    )


def _place(
    canvas: Image.Image, film: Film, camera: Camera, who: tuple[int, int], pose: tuple[int, ...]
) -> None:
    """Draws one person; pose is (x, y of the feet, figure, heading, phase, standing)."""
    person, wardrobe = _dressed(film, *who)
    x, y, figure, heading, phase, standing = pose
    tall = canvas.height * figure // 1000
    # Body units are square in a picture 2.15 times as high as wide; others are stretched, as crops
    # are.
    wide = 43 * canvas.width * figure // 20_000
    half, deep = wide * 14 // 100, tall * 2 // 100
    spot = min(max(x, 0), canvas.width - 1), min(max(y, 0), canvas.height - 1)
    red, green, blue = canvas.getpixel(spot)  # pyright: ignore[reportGeneralTypeIssues]
    shadow = darker((red, green, blue), 62)
    ImageDraw.Draw(canvas).ellipse((x - half, y - deep, x + half, y + deep), fill=shadow)
    stance = Stance(
        foot_x=x,
        foot_y=y,
        tall=tall,
        wide=wide,
        heading=heading,
        phase=phase,
        standing=bool(standing),
        pitch=camera.pitch,
        light=camera.light,
    )
    draw_person(canvas, person, wardrobe, stance)


def _shoot(
    film: Film, take: Take, offset: int, moment: Moment, gains: tuple[int, int, int]
) -> Image.Image:
    camera, street = _set_up(film, take.camera)
    width, height = film.width * film.shrink, film.height * film.shrink
    left = (moment.scroll * width // 1000) % (street.width - width)
    canvas = street.crop((left, 0, left + width, height))
    middle = width // 2 + moment.shift[0] * width // 1000
    feet = height * (1000 + moment.figure) // 2000 + moment.shift[1] * height // 1000
    x = middle + moment.aside * width // 1000
    pose = (x, feet, moment.figure, moment.heading, moment.phase, moment.standing)
    _place(canvas, film, camera, (take.group, take.person), pose)
    if moment.passer is not None:
        passer, where, heading, phase = moment.passer
        figure = moment.figure * passer.figure // 1000
        pose = (middle + where * width // 1000, feet + height // 60, figure, heading, phase, 0)
        group = _STRANGERS if passer.stranger else PEOPLE
        _place(canvas, film, camera, (group, passer.number), pose)
    if moment.obstacle is not None:
        kind, where, shade = moment.obstacle
        draw_obstacle(canvas, kind, middle + where * width // 1000, shade)
    rng = generator(film.seed, _FRAME, take.group, take.person, take.camera, take.track, offset)
    return take_picture(canvas, camera, rng, shrink=film.shrink, smear=moment.smear, gains=gains)


def shoot(
    film: Film, take: Take, *, skip: Container[int] = ()
) -> Iterator[tuple[int, Image.Image]]:
    """Yields (offset, RGB picture of film.height x film.width) of a tracklet, in time order.

    Frames whose offset is in `skip` are left out; the others are the same with and without it.
    """
    camera, _ = _set_up(film, take.camera)
    rng = generator(film.seed, _PASSAGE, take.group, take.person, take.camera, take.track)
    own = take.person if take.group == PEOPLE else -1
    passage = decide_passage(
        rng, camera, take.length, take.others, own, film.difficulty, film.occlusion
    )
    for offset, moment in enumerate(passage.moments):
        if offset not in skip:
            yield offset, _shoot(film, take, offset, moment, passage.gains)


def write_take(film: Film, take: Take, names: tuple[str, ...], folder: Path) -> int:
    """Writes the images of a tracklet, each atomically; returns how many.

    Args:
        film, take: what to draw.
        names: a file name for each frame; empty for frames that are not to be written.
        folder: of the images.
    """
    skip = {offset for offset, name in enumerate(names) if not name}
    for offset, image in shoot(film, take, skip=skip):
        path = folder / names[offset]
        with whole_file(path, sync=False) as temporary:
            if path.suffix == ".png":
                image.save(temporary, format="PNG", compress_level=1)
            else:
                image.save(temporary, format="JPEG", quality=95, subsampling=0, optimize=False)
    return len(names) - len(skip)
