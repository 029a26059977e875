"""Videos plus the track files of any tracker -> this project's layout.

Cuts people out of videos along their tracks: `python -m stf_jax.prepare mot`.

A camera is NUMBER:VIDEO:TRACKS, where VIDEO is a file or a folder of frames and TRACKS a
MOT-challenge file: frame,id,left,top,width,height[,confidence[,class[,visibility]]] or the
ten-column form, separated by commas or white space. A tracker numbers each camera for itself:
--ids camera (or --unlabelled). With --ids global an id is one person over all cameras, as where
somebody labelled them: only then there is anything to train on and to score.

A track is cut where more than --max-gap frames are missing, then into equal parts of at most
--max-length boxes. Boxes that a filter drops give no picture, but do not cut the track.

example, unknown people in three cameras, to search for those that camera 1 saw:
  python -m stf_jax.prepare mot --ids camera --query-cameras 1 --output data/night \\
      --camera 1:a.mp4:a.txt --camera 2:b.mp4:b.txt --camera 3:c_frames:c.txt

example, two labelled cameras, odd identities train, camera 2 queries:
  python -m stf_jax.prepare mot --camera 1:hall.mp4:hall.txt --camera 2:door.mp4:door.txt \\
      --ids global --train-rule odd --query-cameras 2 --stride 2 --max-length 40 \\
      --output data/building

Run again after an interruption, the same command resumes where it stopped. Besides images and
partitions.pkl it writes tracklets.csv: each tracklet's source id and frames, as in TRACKS, and
the frame rate.
"""

import argparse
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stf_jax.data.layout.partitions import load_layout
from stf_jax.errors import UserError
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.prepare.output import claim_output, write_text
from stf_jax.prepare.preview import save_preview
from stf_jax.prepare.tracks.cut import CutRules, clip_boxes, cut_tracklets
from stf_jax.prepare.tracks.split import (
    TRAIN_RULES,
    parse_numbers,
    query_tracklets,
    train_ids_by_rule,
    train_ids_by_share,
)
from stf_jax.prepare.tracks.summary import (
    ROLES,
    Camera,
    Tracklets,
    dropped_boxes,
    summary,
    tracklet_table,
)
from stf_jax.prepare.tracks.track_files import (
    BOXES,
    FEW_BOXES,
    TrackFile,
    from_centres,
    read_tracks,
)
from stf_jax.prepare.tracks.video import Video, open_video
from stf_jax.prepare.tracks.write_crops import too_short, write_images
from stf_jax.prepare.validation import add_val_share

TrainIds = Callable[[set[int]], set[int]]
"""All identities -> those that train."""
_RULES = CutRules()
LAST_ID = 10**18 - 1  # of a name's first number (`data.layout.names`)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `prepare mot` to a parser."""
    add = parser.add_argument
    add(
        "--camera",
        action="append",
        required=True,
        metavar="NUMBER:VIDEO:TRACKS",
        dest="cameras",
        help="a camera's number, its video or folder of frames, its track file; once for each",
    )
    add(
        "--preview",
        type=Path,
        metavar="FILE",
        help="also write a contact sheet (.png or .jpg) of some of the people",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    add("--first-frame", type=int, choices=(0, 1), default=1, help="in TRACKS (default 1)")
    add(
        "--boxes",
        choices=BOXES,
        help="columns 3 to 6 of TRACKS: left, top, width, height; left, top, right, bottom; or "
        "centre, width, height (default: size, and a file that looks like another is refused)",
    )

    add(
        "--frame-rate",
        type=float,
        metavar="FPS",
        help="frames a second of every camera (default: the videos' own; folders have none)",
    )

    split = parser.add_argument_group("split (--ids camera or one of the next four is required)")
    split.add_argument(
        "--ids",
        choices=("camera", "global"),
        help="camera: each camera was numbered for itself, which is --unlabelled; global: an id is "
        "one person in all cameras (default with --train-...)",
    )
    which = split.add_mutually_exclusive_group()
    which.add_argument("--train-ids", metavar="LIST|FILE", help="such as 1,3,5-9; others test")
    which.add_argument("--train-rule", choices=TRAIN_RULES, help="ids that train; others test")
    which.add_argument("--train-fraction", type=float, metavar="SHARE", help="drawn with --seed")
    which.add_argument(
        "--unlabelled",
        action="store_true",
        help="ids mean nothing across cameras: each (camera, id) becomes an identity of its own; "
        "test set only, which can be searched and looked at but not scored",
    )
    split.add_argument("--seed", type=int, default=0, help="of --train-fraction (default 0)")
    split.add_argument(
        "--query-cameras",
        metavar="LIST",
        help="cameras whose test tracklets are queries if another camera has the person "
        "(default: the lowest number; with --unlabelled: none, a gallery only)",
    )

    add_val_share(split.add_argument)

    cut = parser.add_argument_group("cutting")
    add = cut.add_argument
    gap = "missing frames bridged within a tracklet (default %(default)s)"
    add("--max-gap", type=int, default=_RULES.max_gap, metavar="FRAMES", help=gap)
    length = "of a tracklet, before the stride; 0: any (default %(default)s)"
    add("--max-length", type=int, default=_RULES.max_length, metavar="BOXES", help=length)
    stride = "every N-th usable box gives a picture (default %(default)s)"
    add("--stride", type=int, default=_RULES.stride, metavar="N", help=stride)
    add("--ext", choices=("png", "jpg"), default="png", help="of the images (default png)")

    drop = parser.add_argument_group("dropping (counted by reason)")
    add = drop.add_argument
    add("--classes", metavar="LIST", help="classes of TRACKS that are people")
    least = "tracklets of fewer pictures (default %(default)s)"
    add("--min-length", type=int, default=_RULES.min_length, metavar="PICTURES", help=least)
    low, thin = (f"{kind} boxes (default %(default)g)" for kind in ("lower", "narrower"))
    add("--min-height", type=float, default=_RULES.min_height, metavar="PIXELS", help=low)
    add("--min-width", type=float, default=_RULES.min_width, metavar="PIXELS", help=thin)
    unsure = "boxes of a lower confidence, column 7 (default: none)"
    add("--min-confidence", type=float, metavar="C", help=unsure)
    hidden = "boxes of a lower visibility, column 9 of ground truth (default: none)"
    add("--min-visibility", type=float, metavar="SHARE", help=hidden)
    inside = "of the box's area in the picture (default %(default)s)"
    add("--min-inside", type=float, default=_RULES.min_inside, metavar="SHARE", help=inside)
    unseen = "boxes with exactly this confidence were interpolated, not seen"
    add("--interpolated-confidence", type=float, metavar="C", help=unseen)


def _rules(args: argparse.Namespace) -> CutRules:
    for name, least in (("max_gap", 0), ("max_length", 0), ("stride", 1), ("min_length", 1)):
        value = getattr(args, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {least} or more")
    classes = None if args.classes is None else tuple(parse_numbers(args.classes, "--classes"))
    fields = [f.name for f in dataclasses.fields(CutRules) if f.name != "classes"]
    return CutRules(classes=classes, **{name: getattr(args, name) for name in fields})


def parse_camera(text: str) -> tuple[int, Path, Path]:
    """Parses NUMBER:VIDEO:TRACKS; paths with colons are understood where the files exist."""
    number, _, rest = text.partition(":")
    if not re.fullmatch("[0-9]+", number) or ":" not in rest:
        raise UserError(f"--camera {text}: expected NUMBER:VIDEO:TRACKS, such as 1:a.mp4:a.txt")
    colons = [place for place, letter in enumerate(rest) if letter == ":"]
    choices = [(Path(rest[:place]), Path(rest[place + 1 :])) for place in colons]
    present = [pair for pair in choices if pair[0].exists() and pair[1].is_file()]
    return int(number), *(present or choices)[-1]


def _in_folder_numbers(video: Video, tracks: TrackFile) -> TrackFile:
    """A folder that starts at frame 100, say, is meant by its own numbers."""
    if video.first_number <= 1:
        return tracks
    shift = video.first_number - tracks.first_frame
    if tracks.frames.min() < shift:
        raise UserError(
            f"{tracks.path}: has frame {tracks.frames.min() + tracks.first_frame}, but "
            f"{video.path} starts at {video.pictures[0].name}; number both the same way"
        )
    return dataclasses.replace(tracks, frames=tracks.frames - shift, first_frame=video.first_number)


def _refuse_centres(video: Video, tracks: TrackFile) -> None:
    """Boxes that reach out of the picture, and would be in it if columns 3 and 4 were centres."""
    cut_off, centred_cut_off = (
        float((clip_boxes(boxes, width=video.width, height=video.height)[1] < 0.9).mean())
        for boxes in (tracks.boxes, from_centres(tracks.boxes))
    )
    if len(tracks.boxes) >= FEW_BOXES and cut_off >= 0.3 and centred_cut_off <= 0.02:
        raise UserError(
            f"{tracks.path}: {100 * cut_off:.0f} % of the boxes reach out of the "
            f"{video.width}x{video.height} picture, and all would be in it if columns 3 and 4 were "
            "the boxes' centres; pass --boxes centre, or --boxes size where they are left and top"
        )


def _read_cameras(
    sources: Iterable[tuple[int, Path, Path]],
    first_frame: int,
    boxes: str | None,
    rules: CutRules,
    frame_rate: float | None,
) -> list[Camera]:
    cameras: dict[int, Camera] = {}
    for number, video_path, tracks_path in sources:
        if number in cameras:
            text = f"{number}:{video_path}:{tracks_path}"
            raise UserError(f"--camera {text}: camera {number} is given twice")
        tracks = read_tracks(tracks_path, first_frame=first_frame, boxes=boxes)
        video = open_video(video_path)
        if frame_rate is not None:
            video = dataclasses.replace(video, rate=frame_rate)
        tracks = _in_folder_numbers(video, tracks)
        if video.pictures and tracks.frames.max() >= len(video.pictures):
            raise too_short(video, tracks, len(video.pictures))
        if boxes is None:
            _refuse_centres(video, tracks)
        cut = cut_tracklets(tracks, rules, width=video.width, height=video.height)
        cameras[number] = Camera(number, video, tracks, cut)
    return [cameras[number] for number in sorted(cameras)]


def _train_ids(args: argparse.Namespace, ids: set[int]) -> set[int]:
    if args.train_rule is not None:
        return train_ids_by_rule(ids, args.train_rule)
    if args.train_ids is None:
        return train_ids_by_share(ids, args.train_fraction, args.seed)
    chosen = set(parse_numbers(args.train_ids, "--train-ids"))
    missing = sorted(chosen - ids)
    if missing:
        raise UserError(
            f"--train-ids {args.train_ids}: no tracklet of id "
            f"{', '.join(map(str, missing[:10]))}{' ...' if len(missing) > 10 else ''}; "
            f"ids from {min(ids)} to {max(ids)} are there ({len(ids)} in all)"
        )
    return chosen


def _assign(
    cameras: list[Camera],
    train_ids: TrainIds | None,
    query_cameras: Sequence[int] | None,
    digits: int,
    ext: str,
) -> Tracklets:
    """Identities, tracks, roles and image names of all tracklets."""
    numbers = np.concatenate([np.full(len(c.cut.source_ids), c.number) for c in cameras])
    source_ids = np.concatenate([c.cut.source_ids for c in cameras])
    tracks = np.concatenate([np.arange(1, len(c.cut.source_ids) + 1) for c in cameras])
    person_ids = source_ids
    if train_ids is not None and source_ids.max(initial=0) > LAST_ID:
        raise UserError(
            f"id {source_ids.max()}: names of images hold identities up to {LAST_ID}; number them "
            "anew, or pass --unlabelled, which does"
        )
    given = [camera.number for camera in cameras]
    if train_ids is None:
        pairs = np.stack([numbers, source_ids], axis=1)
        person_ids = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1) + 1
        trains, wanted = np.zeros(len(person_ids), bool), []
    else:
        trains = np.isin(person_ids, sorted(train_ids({int(i) for i in person_ids})))
        wanted = given[:1]
    if query_cameras is not None:
        wanted = query_cameras
    missing = [number for number in wanted if number not in given]
    if missing:
        raise UserError(
            f"--query-cameras {','.join(map(str, wanted))}: no camera {missing[0]}; given are "
            f"{', '.join(map(str, given))}"
        )
    roles = np.where(trains, ROLES.index("train"), ROLES.index("gallery"))
    tests = np.flatnonzero(~trains)
    queries = query_tracklets(
        person_ids[tests], numbers[tests], wanted, need_match=train_ids is not None
    )
    roles[tests[queries]] = ROLES.index("query")
    lengths = np.concatenate([np.diff(c.cut.offsets) for c in cameras])
    names = tuple(
        tuple(
            image_name(int(i), int(c), int(t), k, camera_digits=digits, ext=ext)
            for k in range(length)
        )
        for i, c, t, length in zip(person_ids, numbers, tracks, lengths, strict=True)
    )
    return Tracklets(person_ids, numbers, tracks, roles, names)


def _source_summary(camera: Camera) -> dict[str, object]:
    """What must not change between two runs into one folder; paths may, so they are left out."""
    video = camera.video
    if video.pictures:
        listing = "\n".join(path.name for path in video.pictures).encode()
        size: object = hashlib.sha256(listing).hexdigest()
    else:
        size = video.path.stat().st_size
    return {
        "camera": camera.number,
        "video": video.path.name,
        "video_bytes_or_listing": size,
        "tracks_sha256": hashlib.sha256(camera.tracks.path.read_bytes()).hexdigest(),
    }


def cut_videos(
    sources: Iterable[tuple[int, Path, Path]],
    output: Path,
    *,
    train_ids: TrainIds | None = None,
    query_cameras: Sequence[int] | None = None,
    rules: CutRules = _RULES,
    first_frame: int = 1,
    boxes: str | None = None,
    ext: str = "png",
    val_share: float = 0,
    preview: Path | None = None,
    to_embed: bool = False,
    frame_rate: float | None = None,
) -> None:
    """Cuts people out of videos along their tracks, writes the layout and prints a summary.

    Every input is read and checked before anything is written, except that a video's length is
    known only once it has been decoded. The images are written one by one, each whole or not at
    all; partitions.pkl comes last, so a folder without it is not complete.

    Args:
        sources: camera number, video (file or folder of frames) and track file of each camera.
        output: a new or empty folder, or that of the same call before.
        train_ids: chooses from all identities those that train; the others test. None where ids
            mean nothing across cameras: each (camera, id) becomes a test identity of its own.
        query_cameras: whose test tracklets are queries; by default the lowest number's, or none
            without `train_ids`.
        rules: how tracks are cut and which boxes are dropped.
        first_frame: number of a video's first frame in the track files, 0 or 1.
        boxes: as of `track_files.read_tracks`.
        ext: of the images, png or jpg.
        val_share: as of `layout.write_partitions`.
        frame_rate: frames a second of every camera; by default the videos' own.
        to_embed: say only which boxes gave no picture: the layout is not one to train or score on.
        preview: a contact sheet of some test people (training people where there are no others).

    Raises:
        UserError: bad input, or an output folder that belongs to something else.
    """
    if frame_rate is not None and not 0 < frame_rate < 1e6:
        raise UserError(f"--frame-rate {frame_rate:g}: expected frames a second, above 0")
    cameras = _read_cameras(sources, first_frame, boxes, rules, frame_rate)
    digits = len(str(max(camera.number for camera in cameras)))
    tracklets = _assign(cameras, train_ids, query_cameras, digits, ext)
    receipt = {
        "source": "mot",
        "cameras": [_source_summary(camera) for camera in cameras],
        "first_frame": first_frame,
        "boxes": boxes,
        "unlabelled": train_ids is None,
        "ext": ext,
        "split": hashlib.sha256(tracklets.roles.astype("<i8").tobytes()).hexdigest(),
        **dataclasses.asdict(rules),
        "classes": None if rules.classes is None else list(rules.classes),
    }
    folder, present = claim_output(output, receipt)
    names = [name for group in tracklets.names for name in group]
    if not present.issuperset(names):
        (output / "partitions.pkl").unlink(missing_ok=True)
    start = 0
    for camera in cameras:
        stop = start + int(camera.cut.offsets[-1])
        write_images(camera, names[start:stop], present, folder)
        start = stop
    write_text(output / "tracklets.csv", tracklet_table(cameras, tracklets))
    by_role: dict[str, list[str]] = {role: [] for role in ROLES}
    for role, group in zip(tracklets.roles, tracklets.names, strict=True):
        by_role[ROLES[role]].extend(group)
    test = by_role["query"] + by_role["gallery"]
    marks = [0] * len(by_role["query"]) + [1] * len(by_role["gallery"])
    write_partitions(
        output,
        trainval=by_role["train"],
        test=test,
        test_marks=marks,
        camera_digits=digits,
        val_share=val_share,
    )
    if to_embed:
        print("\n".join(dropped_boxes(cameras)))
        return
    print(summary(cameras, tracklets, train_ids is None))
    if preview is not None:
        layout = load_layout(output)
        tables = [table for table in (layout.test, layout.trainval) if table is not None]
        save_preview(preview, tables[0])
        print(f"preview: {preview}")
    print(f"written: {output}")


def run(args: argparse.Namespace) -> None:
    """Runs `prepare mot`, as `cut_videos`; raises UserError as that does."""
    trains = [
        n for n in ("train_ids", "train_rule", "train_fraction") if getattr(args, n) is not None
    ]
    given = f"--{trains[0].replace('_', '-')}" if trains else "--unlabelled"
    if args.ids == "camera" and trains:
        raise UserError(
            f"--ids camera and {given}: nobody is known in two cameras, so there is nothing to "
            f"train on; leave {given} out, or pass --ids global where ids are the same everywhere"
        )
    if args.ids == "global" and args.unlabelled:
        raise UserError("--ids global and --unlabelled: expected one of them")
    if args.ids != "camera" and not trains and not args.unlabelled:
        raise UserError(
            "expected --ids camera, or one of --train-ids --train-rule --train-fraction "
            "--unlabelled; a tracker numbers each camera for itself: --ids camera"
        )
    if args.preview is not None and args.preview.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--preview {args.preview}: expected a name that ends in .png or .jpg")
    queries = args.query_cameras
    cut_videos(
        map(parse_camera, args.cameras),
        args.output,
        train_ids=partial(_train_ids, args) if trains else None,
        query_cameras=None if queries is None else parse_numbers(queries, "--query-cameras"),
        rules=_rules(args),
        first_frame=args.first_frame,
        boxes=args.boxes,
        ext=args.ext,
        val_share=args.val_share,
        preview=args.preview,
        frame_rate=args.frame_rate,
    )
