"""Everything checkable about a layout: `python -m stf_jax.prepare verify ROOT`.

Checks the partitions file (names, labels, marks, cameras, duplicates, queries without
a match), and that every image is there and decodes; counts sizes, tracklet lengths and images of
the same content. Prints a table, and one line for each finding.

Exit status: 0, nothing to fix; 1, findings that must be fixed; 2, could not be checked.
Images of the same content and queries without a match are printed, but need not be mistakes.

example:
  python -m stf_jax.prepare verify data/mars
  python -m stf_jax.prepare verify data/mars --fix partitions_fixed.pkl

--fix writes a second partitions file in ROOT, without the bad entries, and next to it NAME.dropped
with a line for each of them; nothing that is there is changed or deleted.
"""

import argparse
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from stf_jax.data.layout.checks import (
    GALLERY,
    MULTI_QUERY,
    QUERY,
    Findings,
    examples,
    unmatched_queries,
)
from stf_jax.data.layout.names import names_array, parse_names
from stf_jax.data.layout.partitions import TrackletTable, read_partitions, tables
from stf_jax.errors import UserError
from stf_jax.files import is_leftover, leftovers_note
from stf_jax.prepare.checking.entries import (
    Entries,
    counts_by_reason,
    judge,
    list_names,
    write_fixed,
)
from stf_jax.prepare.checking.images import ImageCheck, check_images
from stf_jax.prepare.output import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `prepare verify` to a parser."""
    add = parser.add_argument
    add("root", type=Path, metavar="ROOT", help="the folder of partitions.pkl and images")
    add("--partitions", default="partitions.pkl", metavar="NAME", help="(default %(default)s)")
    add("--fix", metavar="NAME", help="write ROOT/NAME without the bad entries")
    add("--threads", type=int, metavar="N", help="decoding at a time (default: one a processor)")


def layout_table(built: Mapping[str, TrackletTable]) -> str:
    """Counts of each subset, a column each."""
    columns: list[dict[str, str | int]] = []
    for table in built.values():
        lengths = table.lengths
        column = {
            "tracklets": table.num_tracklets,
            "frames": table.num_frames,
            "identities": len(np.unique(table.person_ids)),
            **({"labels": table.num_labels} if table.num_labels else {}),
            "tracklet length, least": int(lengths.min()),
            "tracklet length, mean": f"{lengths.mean():.2f}",
            "tracklet length, most": int(lengths.max()),
        }
        if (table.marks >= 0).any():
            marks = (("query", QUERY), ("gallery", GALLERY), ("multi-query", MULTI_QUERY))
            column |= {f"{what} tracklets": int((table.marks == m).sum()) for what, m in marks}
        if (table.marks == QUERY).any():
            unmatched = unmatched_queries(table.person_ids, table.cameras, table.marks)
            column["queries without a match"] = int(unmatched.sum())
        columns.append(column)
    rows: dict[str, list[str | int]] = {}
    for what in chain(*columns):
        rows[what] = [column.get(what, "-") for column in columns]
    every = sorted({int(c) for table in built.values() for c in np.unique(table.cameras)})
    for camera in every:
        rows[f"camera {camera} tracklets"] = [
            int((table.cameras == camera).sum()) for table in built.values()
        ]
    width = max(map(len, rows), default=0)
    lines = [" " * width + "".join(f"{subset:>12}" for subset in built)]
    for what, cells in rows.items():
        texts = (cell if isinstance(cell, str) else f"{cell:,}" for cell in cells)
        lines.append(f"{what:{width}}" + "".join(f"{cell:>12}" for cell in texts))
    return "\n".join(lines)


def image_lines(checks: Sequence[ImageCheck]) -> list[str]:
    """Sizes and kinds of the images that decode."""
    good = [check for check in checks if not check.problem]
    lines = [f"images: {len(checks):,} listed, {len(good):,} decode"]
    if good:
        sizes = Counter(check.size for check in good)
        (low, left), (high, right) = np.min([*sizes], axis=0), np.max([*sizes], axis=0)
        often = max(sorted(sizes), key=lambda size: sizes[size])
        lines.append(
            f"sizes: height {low} to {high}, width {left} to {right}, {len(sizes):,} different; "
            f"most often {often[0]} x {often[1]} ({sizes[often]:,} images)"
        )
        kinds = Counter(check.kind for check in good)
        listing = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        lines.append(f"kinds: {listing}")
    return lines


def same_content(
    checks: Sequence[ImageCheck], names_of: Mapping[str, Sequence[str]], camera_digits: int
) -> list[str]:
    """Lines about images of the same bytes, by what they have in common."""
    by_digest: defaultdict[int, list[str]] = defaultdict(list)
    for check in checks:
        if not check.problem:
            by_digest[check.digest].append(check.name)
    training = {*names_of.get("train", ()), *names_of.get("trainval", ())}
    ranked = {*names_of.get("val", ()), *names_of.get("test", ())} - training
    found: defaultdict[str, list[str]] = defaultdict(list)
    for _, names in sorted(by_digest.items()):
        if len(names) == 1:
            continue
        parsed = parse_names(names_array(names), camera_digits)
        people, cameras, tracks = map(
            set, (parsed.person_ids.tolist(), parsed.cameras.tolist(), parsed.tracks.tolist())
        )
        if not training.isdisjoint(names) and not ranked.isdisjoint(names):
            where = "in training and in ranked subsets"
        elif len(people) > 1:
            where = "of different identities"
        elif len(cameras) > 1 or len(tracks) > 1:
            where = "in different tracklets of one identity"
        else:
            where = "within one tracklet"
        found[where].append(" = ".join(names[:3]))
    return [
        f"same content: {len(groups):,} groups of images {where} ({examples(groups, 2)})"
        for where, groups in sorted(found.items())
    ]


def _unlisted(image_dir: Path, names: Sequence[str]) -> list[str]:
    try:
        others = set(os.listdir(image_dir)).difference(names)
    except OSError as error:
        raise UserError(
            f"{image_dir}: cannot be listed ({error.strerror}); expected the folder of the images"
        ) from None
    leftovers = [name for name in others if is_leftover(name)]
    notes = [leftovers_note(image_dir, leftovers)] if leftovers else []
    others -= set(leftovers)
    if others:
        unlisted = f"{len(others):,} files are in no subset ({examples(sorted(others))})"
        notes.append(f"{image_dir}: {unlisted}")
    return notes


def _fix(
    root: Path, name: str, values: Mapping[str, object], entries: Sequence[Entries]
) -> list[str]:
    dropped = [
        f"{subset.subset}\t{image}\t{reason}\n"
        for subset in entries
        for image, reason in zip(subset.names, subset.reasons, strict=True)
        if reason
    ]
    # The partitions file comes last: where it is, so is the list of what it lacks.
    write_text(root / f"{name}.dropped", "".join(dropped))
    try:
        notes = write_fixed(root, name, values, entries)
    except UserError:
        (root / f"{name}.dropped").unlink()
        raise
    shown = [f"dropped: {line.rstrip().replace(chr(9), ': ')}" for line in dropped[:20]]
    if len(dropped) > len(shown):
        shown.append(f"dropped: and {len(dropped) - len(shown):,} more, all in {name}.dropped")
    return [*shown, *notes, f"written: {root / name} without {len(dropped):,} entries"]


def run(args: argparse.Namespace) -> int:
    """Runs `prepare verify`; 0 where nothing must be fixed, else 1.

    Raises:
        UserError: a layout that cannot be read at all, or a --fix that cannot be written.
    """
    path = args.root / args.partitions
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads {args.threads}: expected 1 or more")
    if args.fix is not None and (os.path.basename(args.fix) != args.fix or not args.fix):
        raise UserError(f"--fix {args.fix}: expected a file name; it is written into {args.root}")
    if args.fix is not None and os.path.lexists(args.root / args.fix):
        raise UserError(f"{args.root / args.fix}: is there already; give another name to --fix")
    values = read_partitions(path)
    image_dir = args.root / "images"
    findings = Findings(path)
    built = tables(values, image_dir, findings)
    names_of = list_names(values)
    names = sorted(set().union(*names_of.values()))
    unlisted = _unlisted(image_dir, names)
    checks = check_images(image_dir, names, args.threads)
    problems = {check.name: check.problem for check in checks if check.problem}
    digits = values.get("camera_digits", 1)

    print(layout_table(built))
    print(*image_lines(checks), sep="\n")
    notes = [*findings.notes, *unlisted]
    turned = [check.name for check in checks if check.orientation != 1]
    if turned:
        notes.append(
            f"{image_dir}: {len(turned):,} images carry an EXIF orientation, which viewers apply "
            f"and training does not ({examples(turned)}); turn the pixels where it is meant"
        )
    if isinstance(digits, int) and 1 <= digits <= 9:
        notes += same_content(checks, names_of, digits)
    for note in notes:
        print(f"note: {note}")
    errors = list(findings.errors)
    for reason, count in sorted(Counter(p.split(" (", 1)[0] for p in problems.values()).items()):
        some = [name for name, problem in problems.items() if problem.startswith(reason)]
        errors.append(f"{image_dir}: {count:,} images: {reason} ({examples(some)})")
    for error in errors:
        print(f"error: {error}")
    if args.fix is not None:
        entries = [judge(subset, listed, values, problems) for subset, listed in names_of.items()]
        for reason, count in counts_by_reason(entries).items():
            print(f"bad: {count:,} images: {reason}")
        print(*_fix(args.root, args.fix, values, entries), sep="\n")
    print(f"{path}: {len(errors)} to fix, {len(notes)} to note")
    return 1 if errors else 0
