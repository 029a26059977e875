"""A contact sheet of a layout: rows are tracklets, columns are frames."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from stf_jax.data.layout.partitions import GALLERY, QUERY, TrackletTable
from stf_jax.prepare.output import whole_file

_MARGIN = 70  # pixels, for the label at the left


def contact_sheet(
    table: TrackletTable, tracklets: Sequence[int], *, columns: int = 14, height: int = 128
) -> UInt8[np.ndarray, "h w 3"]:
    """Shows evenly spaced frames of some tracklets, in time order.

    Args:
        table: tracklets of a layout.
        tracklets: indices into the table, a row each.
        columns: frames shown of a tracklet; shorter ones leave their places grey.
        height: of a frame, pixels; all get the width of the sheet's first frame.

    Returns:
        RGB picture; each row says identity, camera, track, length and mark at its left.
    """
    width = None
    sheet = Image.new("RGB", (1, 1))
    font = ImageFont.load_default()
    for row, tracklet in enumerate(tracklets):
        first, last = int(table.offsets[tracklet]), int(table.offsets[tracklet + 1])
        frames = np.unique(np.linspace(first, last - 1, columns).round().astype(np.int64))
        for column, frame in enumerate(frames):
            path = table.image_dir / os.fsdecode(bytes(table.names[frame]))
            with Image.open(path) as image:
                if width is None:
                    width = max(1, image.width * height // image.height)
                    size = (_MARGIN + columns * width, len(tracklets) * height)
                    sheet = Image.new("RGB", size, (64, 64, 64))
                small = image.convert("RGB").resize((width, height))
            sheet.paste(small, (_MARGIN + column * width, row * height))
        lines = (
            f"id {table.person_ids[tracklet]}",
            f"camera {table.cameras[tracklet]}",
            f"track {table.tracks[tracklet]}",
            f"{last - first} frames",
            {QUERY: "query", GALLERY: "gallery"}.get(int(table.marks[tracklet]), ""),
        )
        draw = ImageDraw.Draw(sheet)
        draw.text((6, row * height + 8), "\n".join(lines), fill=(230, 230, 230), font=font)
    return np.asarray(sheet).copy()


def save_preview(path: Path, table: TrackletTable, *, identities: int = 6, rows: int = 3) -> None:
    """Writes a contact sheet of the first identities of a table (0 and junk left out).

    Args:
        path: of the picture to be written; the ending decides the format.
        table: tracklets of a layout.
        identities: how many.
        rows: tracklets of each, at most, one per camera where there are enough cameras.
    """
    chosen: list[int] = []
    people = np.unique(table.person_ids[table.person_ids > 0])[:identities]
    for person in people:
        own = np.flatnonzero(table.person_ids == person)
        firsts = own[np.unique(table.cameras[own], return_index=True)[1]]
        chosen += sorted([*firsts.tolist(), *np.setdiff1d(own, firsts).tolist()][:rows])
    sheet = Image.fromarray(contact_sheet(table, chosen))
    with whole_file(path) as temporary:
        sheet.save(temporary, format="PNG" if path.suffix.lower() == ".png" else "JPEG")
