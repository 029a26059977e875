"""Galleries that grow: features of many recordings in LanceDB.

python -m stf_jax.gallery create night hall.npz            a new gallery, and what is in it first
python -m stf_jax.gallery add night door.npz --start 2026-11-27T18:00:00Z --frame-rate 25
python -m stf_jax.gallery search night --query yard.npz --output yard_in_night
python -m stf_jax.gallery remove night --person 7 --purge
python -m stf_jax.gallery info night
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from stf_jax.errors import prints_user_errors


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit status."""
    options = parse(argv)
    return options.run(options)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `run` is the subcommand's function."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.gallery",
        description="Keep features, cameras, times and thumbnails of tracklets in a LanceDB table "
        "(needs the extra gallery). DIR is a folder, or an address such as s3://bucket/folder. "
        "Times are ISO 8601, in UTC where they name no zone.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "create": (_create, "make a gallery of files of features"),
        "add": (_add, "add files of features; tracklets that are there already are passed over"),
        "search": (_search, "write the nearest tracklets of each query as matches.csv"),
        "remove": (_remove, "remove tracklets with their thumbnails"),
        "info": (_info, "print what is in a gallery"),
        "unlock": (_unlock, "release the lock that a killed writer left in an object store"),
    }
    parts = {}
    for name, (run, text) in texts.items():
        parts[name] = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        parts[name].add_argument("gallery", metavar="DIR", help="the gallery")
        parts[name].set_defaults(run=run)
    for name in ("create", "add"):
        add = parts[name].add_argument
        add("features", nargs="+", type=Path, metavar="NPZ", help="of --mode embed or evaluate")
        add("--start", type=_time, metavar="TIME", help="of the recording's first frame")
        add(
            "--frame-rate",
            type=float,
            metavar="N",
            help="its frames a second, if not the features'",
        )
    add = parts["search"].add_argument
    add("--query", type=Path, required=True, metavar="NPZ", help="features of those to look for")
    add("--output", type=Path, required=True, metavar="FOLDER", help="for matches.csv, thumbnails")
    add("--top", type=int, default=10, help="entries of each list (default: %(default)s)")
    add("--camera", metavar="LIST", help="only tracklets of these cameras, such as 1,3-5")
    add("--since", type=_time, metavar="TIME", help="only those seen at this time or later")
    add("--until", type=_time, metavar="TIME", help="only those seen at this time or earlier")
    add("--same-camera", action="store_true", help="also tracklets of a query's own camera")
    add(
        "--index",
        action="store_true",
        help="through an index, made if need be, and measure its recall (default: exact)",
    )
    add = parts["remove"].add_argument
    add("--id", nargs="+", default=[], metavar="ID", help="as matches.csv has them")
    add("--person", nargs="+", type=int, default=[], metavar="N", help="labelled people")
    add("--camera", metavar="LIST", help="tracklets of these cameras, such as 1,3-5")
    add("--source", nargs="+", default=[], metavar="NPZ", help="tracklets of these files")
    add("--before", type=_time, metavar="TIME", help="those seen last before this time")
    add("--purge", action="store_true", help="delete earlier versions, too, which hold them still")
    options = parser.parse_args(argv)
    if options.command in ("create", "add"):
        if options.start is None and options.frame_rate is not None:
            parser.error("--frame-rate needs --start")
        if options.frame_rate is not None and not 0 < options.frame_rate < 1e6:
            parser.error(f"--frame-rate {options.frame_rate}: expected frames a second, above 0")
    if options.command == "search" and options.top < 1:
        parser.error(f"--top {options.top}: expected 1 or more")
    return options


def _time(text: str) -> datetime.datetime:
    """A time in UTC, without a zone."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: expected a time such as 2026-11-27T18:00:00Z"
        ) from None
    return time if time.tzinfo is None else time.astimezone(datetime.UTC).replace(tzinfo=None)


def _create(options: argparse.Namespace) -> int:
    from stf_jax.evaluation.features.feature_files import read_features
    from stf_jax.gallery.table import create_gallery
    from stf_jax.gallery.writer import one_writer

    first = read_features(options.features[0])
    with one_writer(options.gallery):
        create_gallery(options.gallery, first.origin, first.features.shape[1])
        return _add_files(options)


def _add(options: argparse.Namespace) -> int:
    from stf_jax.gallery.table import open_gallery
    from stf_jax.gallery.writer import one_writer

    open_gallery(options.gallery)  # before a folder is made for its lock
    with one_writer(options.gallery):
        return _add_files(options)


def _add_files(options: argparse.Namespace) -> int:
    from stf_jax.evaluation.features.feature_files import read_features
    from stf_jax.gallery.rows import Recording, add_features
    from stf_jax.gallery.table import open_gallery

    recording = None
    if options.start is not None:
        recording = Recording(options.start, options.frame_rate)
    gallery = open_gallery(options.gallery)
    for path in options.features:
        done = add_features(gallery, read_features(path), str(path), recording)
        print(
            f"{path}: {done.added} tracklets added, {done.there_before} were there already, "
            f"{done.without_feature} without a feature left out"
        )
    return 0


def _search(options: argparse.Namespace) -> int:
    from stf_jax.evaluation.features.feature_files import read_features
    from stf_jax.folder_lock import one_owner
    from stf_jax.gallery.results import write_results
    from stf_jax.gallery.search import condition, search_gallery
    from stf_jax.gallery.table import open_gallery
    from stf_jax.gallery.writer import one_writer

    query = read_features(options.query)
    gallery = open_gallery(options.gallery)
    where = condition(_numbers(options.camera), options.since, options.until)
    with one_owner(options.output):
        # An index that is made is written into the gallery.
        with one_writer(options.gallery) if options.index else nullcontext():
            found = search_gallery(
                gallery,
                query,
                top=options.top,
                where=where,
                same_camera=options.same_camera,
                index=options.index,
            )
        path = write_results(options.output, gallery, query, found)
    print(f"{query.num_tracklets} queries; written: {path}")
    if found.recall is not None:
        print(
            f"recall of the index at {options.top}: {100 * found.recall:.1f} % of the exact lists"
        )
    return 0


def _remove(options: argparse.Namespace) -> int:
    from stf_jax.gallery.removal import chosen, purge, remove
    from stf_jax.gallery.table import open_gallery
    from stf_jax.gallery.writer import one_writer

    given = (options.id, options.person, options.camera, options.source, options.before)
    selects = any(value not in ([], None) for value in given)
    gallery = open_gallery(options.gallery)
    with one_writer(options.gallery):
        if selects or not options.purge:
            where = chosen(
                ids=options.id,
                people=options.person,
                cameras=_numbers(options.camera) or [],
                sources=options.source,
                before=options.before,
            )
            count = remove(gallery, where)
            print(
                f"{count} tracklets removed, with their features and thumbnails; the frames that "
                "they were made from are not the gallery's and stay where they are"
            )
        if options.purge:
            purge(gallery)
            print("earlier versions deleted: nothing that was removed is left in the gallery")
        else:
            print(
                "earlier versions still hold them; to delete those: "
                f"python -m stf_jax.gallery remove {options.gallery} --purge"
            )
    return 0


def _info(options: argparse.Namespace) -> int:
    from stf_jax.gallery.results import describe
    from stf_jax.gallery.table import open_gallery

    print("\n".join(describe(open_gallery(options.gallery))))
    return 0


def _unlock(options: argparse.Namespace) -> int:
    from stf_jax.gallery.writer import unlock

    print(f"{options.gallery}: released the lock of {unlock(options.gallery)}")
    return 0


def _numbers(text: str | None) -> list[int] | None:
    from stf_jax.prepare.tracks.split import parse_numbers

    return None if text is None else sorted(parse_numbers(text, "--camera"))


if __name__ == "__main__":
    sys.exit(main())
