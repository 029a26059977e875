"""People drawn by this program -> this project's layout: `python -m stf_jax.prepare synthetic`.

They walk past cameras, for demonstrations, tests and comparisons of methods. Real scores need
real people.

Every person has an outfit, a pattern, logos, hair, hat and bag, some of them seen from one side
only; every camera has its light, lens and street. --difficulty scales how many people wear the
same colours (the share of look-alikes) and how far the cameras' colours differ; --occlusion, how
often others cross, things stand in the way and boxes are inaccurate.

The first identities train, the others are the test half; each has its queries in one camera and
its gallery in the others. The same options draw the same pixels on every machine, in any number
of processes. Run again after an interruption, the same command resumes where it stopped.

example, 100 people in 4 cameras, half of them to train on, with a picture to look at:
  python -m stf_jax.prepare synthetic --identities 100 --cameras 4 --seed 0 \\
      --output data/drawn --preview drawn.png
"""

import argparse
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

from tqdm import tqdm

from stf_jax.cores import usable_cores
from stf_jax.data.layout.partitions import GALLERY, QUERY, load_layout
from stf_jax.errors import UserError
from stf_jax.prepare.drawing.filming import (
    DISTRACTORS,
    PEOPLE,
    Film,
    Take,
    decide_length,
    write_take,
)
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.prepare.output import claim_output
from stf_jax.prepare.preview import save_preview
from stf_jax.prepare.validation import add_val_share

# Receipts of older drawings do not match: a folder never mixes two ways of drawing.
_DRAWING = 1


@dataclass(frozen=True)
class Plan:
    """All that decides what is drawn."""

    identities: int
    train_identities: int
    distractors: int
    cameras: int
    tracklets_per_camera: int
    min_length: int
    max_length: int
    height: int
    width: int
    difficulty: int  # per mille
    occlusion: int  # per mille
    seed: int
    ext: str

    @property
    def film(self) -> Film:
        """What all pictures have in common."""
        return Film(self.seed, self.difficulty, self.occlusion, self.height, self.width)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `prepare synthetic` to a parser."""
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    add("--preview", type=Path, metavar="FILE.png", help="also write a contact sheet to look at")
    jobs = "processes (default: one per usable processor); do not change the result"
    add("--jobs", type=int, metavar="N", help=jobs)

    people = parser.add_argument_group("people")
    add = people.add_argument
    default = " (default %(default)s)"
    add("--identities", type=int, default=100, metavar="N", help="in both halves" + default)
    half = people.add_mutually_exclusive_group()
    share = "share of the identities that train (default 0.5)"
    half.add_argument("--train-fraction", type=float, metavar="SHARE", help=share)
    half.add_argument("--train-identities", type=int, metavar="N", help="their number instead")
    extra = "more people, in the gallery only, under identity 0" + default
    add("--distractors", type=int, default=0, metavar="N", help=extra)
    add("--seed", type=int, default=0, help="0 or more" + default)
    hard = "0 (plain) to 1; at 0.5 colour alone does not solve it" + default
    add("--difficulty", type=float, default=0.5, metavar="D", help=hard)
    bad = "how often frames are bad, 0 to 1 (default: as --difficulty)"
    add("--occlusion", type=float, metavar="O", help=bad)

    add_val_share(add)

    pictures = parser.add_argument_group("tracklets and images")
    add = pictures.add_argument
    add("--cameras", type=int, default=3, metavar="K", help="2 or more" + default)
    each = "of each person in each camera" + default
    add("--tracklets-per-camera", type=int, default=1, metavar="N", help=each)
    add("--min-length", type=int, default=12, metavar="FRAMES", help="of a tracklet" + default)
    add("--max-length", type=int, default=32, metavar="FRAMES", help="of a tracklet" + default)
    add("--height", type=int, default=128, metavar="PIXELS", help=default.strip())
    add("--width", type=int, default=64, metavar="PIXELS", help=default.strip())
    add("--ext", choices=("png", "jpg"), default="png", help="of the images" + default)


def read_plan(args: argparse.Namespace) -> Plan:
    """Checks the options.

    Raises:
        UserError: an option out of its range, one line for each.
    """
    least = {
        "identities": 2,
        "distractors": 0,
        "cameras": 2,
        "tracklets_per_camera": 1,
        "min_length": 1,
        "max_length": max(1, args.min_length),
        "height": 32,
        "width": 16,
        "seed": 0,
    }
    wrong = [
        f"--{name.replace('_', '-')} {getattr(args, name)}: expected {low} or more"
        for name, low in least.items()
        if getattr(args, name) < low
    ]
    if args.jobs is not None and args.jobs < 1:
        wrong.append(f"--jobs {args.jobs}: expected 1 or more")
    occlusion = args.difficulty if args.occlusion is None else args.occlusion
    fraction = 0.5 if args.train_fraction is None else args.train_fraction
    shares = {"difficulty": args.difficulty, "occlusion": occlusion, "train-fraction": fraction}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            wrong.append(f"--{name} {share}: expected 0 to 1")
    train = args.train_identities
    if train is not None and not 0 <= train <= args.identities:
        wrong.append(f"--train-identities {train}: expected 0 to {args.identities} (--identities)")
    if args.preview is not None and args.preview.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        wrong.append(f"--preview {args.preview}: expected a name that ends in .png or .jpg")
    elif args.preview is not None and not args.preview.parent.is_dir():
        wrong.append(f"--preview {args.preview}: no folder {args.preview.parent}; make it first")
    if wrong:
        raise UserError("\n".join(wrong))
    if train is None:
        train = math.floor(args.identities * fraction + 0.5)
    numbers = {name: getattr(args, name) for name in least}
    return Plan(
        **numbers,
        train_identities=train,
        difficulty=math.floor(args.difficulty * 1000 + 0.5),
        occlusion=math.floor(occlusion * 1000 + 0.5),
        ext=args.ext,
    )


def _takes(plan: Plan) -> Iterator[Take]:
    """All tracklets: training people, test people, distractors."""
    halves = (range(plan.train_identities), range(plan.train_identities, plan.identities))
    keys = [
        ((PEOPLE, person, camera, track), half)
        for half in halves
        for person in half
        for camera in range(1, plan.cameras + 1)
        for track in range(1, plan.tracklets_per_camera + 1)
    ]
    keys += [
        ((DISTRACTORS, number, number % plan.cameras + 1, number // plan.cameras + 1), halves[1])
        for number in range(plan.distractors)
    ]
    for key, others in keys:
        length = decide_length(plan.film, key, plan.min_length, plan.max_length)
        yield Take(*key, length=length, others=others)


def _names(plan: Plan, take: Take) -> tuple[str, ...]:
    person_id = 0 if take.group == DISTRACTORS else take.person + 1
    digits = len(str(plan.cameras))
    return tuple(
        image_name(person_id, take.camera, take.track, offset, camera_digits=digits, ext=plan.ext)
        for offset in range(take.length)
    )


def _mark(plan: Plan, take: Take) -> int:
    """Each person's queries are in one camera; the cameras take turns."""
    asks = take.group == PEOPLE and take.person % plan.cameras + 1 == take.camera
    return QUERY if asks else GALLERY


def _start_worker() -> None:
    """Leaves interrupts to the parent, and ends when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _draw_all(
    film: Film, jobs: int, work: Iterable[tuple[Take, tuple[str, ...]]], folder: Path
) -> Iterator[int]:
    """Draws the named images of the takes; yields how many were drawn, as they come."""
    if jobs == 1:
        for take, names in work:
            yield write_take(film, take, names, folder)
        return
    # Spawned, not forked: the caller may have threads. A few tracklets wait, however many come.
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker) as pool:
        waiting: deque[Future[int]] = deque()
        try:
            for take, names in work:
                waiting.append(pool.submit(write_take, film, take, names, folder))
                if len(waiting) > 8 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def run(args: argparse.Namespace) -> None:
    """Runs `prepare synthetic`: draws what is missing, writes the layout, prints a summary.

    The images are written one by one, each atomically; partitions.pkl comes last, so a
    folder without it is not complete.

    Raises:
        UserError: an option out of its range, or an output folder of something else.
    """
    plan = read_plan(args)
    root: Path = args.output
    receipt = {"source": "synthetic", "drawing": _DRAWING, **asdict(plan)}
    folder, present = claim_output(root, receipt)
    trainval: list[str] = []
    test: list[str] = []
    marks: list[int] = []
    work: list[tuple[Take, tuple[str, ...]]] = []
    num_tracklets, missing = 0, 0
    for take in _takes(plan):
        names = _names(plan, take)
        num_tracklets += 1
        if take.group == PEOPLE and take.person < plan.train_identities:
            trainval += names
        else:
            test += names
            marks += [_mark(plan, take)] * len(names)
        wanted = tuple("" if name in present else name for name in names)
        if any(wanted):
            work.append((take, wanted))
            missing += sum(map(bool, wanted))
    total = len(trainval) + len(test)
    complete = not missing and (root / "partitions.pkl").exists()
    if not complete:
        (root / "partitions.pkl").unlink(missing_ok=True)
        jobs = min(args.jobs or usable_cores(), max(1, len(work)))
        with tqdm(total=missing, unit="image", desc="drawing", disable=None) as bar:
            for count in _draw_all(plan.film, jobs, work, folder):
                bar.update(count)
    write_partitions(
        root,
        trainval=trainval,
        test=test,
        test_marks=marks,
        camera_digits=len(str(plan.cameras)),
        val_share=args.val_share,
    )
    if complete:
        print(f"kept: {root} is complete: {total} images, {num_tracklets} tracklets")
    else:
        kept = f" ({total - missing} were there already)" if missing < total else ""
        print(f"written: {root}: {total} images, {num_tracklets} tracklets{kept}")
    if args.preview is not None:
        layout = load_layout(root)
        table = layout.test or layout.trainval
        assert table is not None
        save_preview(args.preview, table)
        print(f"preview: {args.preview}")
