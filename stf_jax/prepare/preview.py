"""A contact sheet of a layout: rows are tracklets, columns are frames."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stf_jax.data.layout.partitions import GALLERY, QUERY, TrackletTable
from stf_jax.data.pictures import read_picture
from stf_jax.prepare.output import whole_file

_MARGIN = 70  # pixels, for the label at the left
_COLUMNS = 14  # frames shown of a tracklet, at most
_HEIGHT = 128  # of a frame, pixels


def contact_sheet(table: TrackletTable, tracklets: Sequence[int]) -> Image.Image:
    """Evenly spaced frames of the tracklets (indices into the table), in time order, a row each.

    Shorter tracklets leave their places grey. Frames get the width of the sheet's first one. Each
    row says identity, camera, track, length and mark at its left.
    """
    width = None
    sheet = Image.new("RGB", (1, 1))
    font = ImageFont.load_default()
    for row, tracklet in enumerate(tracklets):
        first, last = int(table.offsets[tracklet]), int(table.offsets[tracklet + 1])
        frames = np.unique(np.linspace(first, last - 1, _COLUMNS).round().astype(np.int64))
        for column, frame in enumerate(frames):
            path = table.image_dir / os.fsdecode(bytes(table.names[frame]))
            image = read_picture(path)
            if width is None:
                width = max(1, image.width * _HEIGHT // image.height)
                size = (_MARGIN + _COLUMNS * width, len(tracklets) * _HEIGHT)
                sheet = Image.new("RGB", size, (64, 64, 64))
            small = image.resize((width, _HEIGHT))
            sheet.paste(small, (_MARGIN + column * width, row * _HEIGHT))
        lines = (
            f"id {table.person_ids[tracklet]}",
            f"camera {table.cameras[tracklet]}",
            f"track {table.tracks[tracklet]}",
            f"{last - first} frames",
            {QUERY: "query", GALLERY: "gallery"}.get(int(table.marks[tracklet]), ""),
        )
        draw = ImageDraw.Draw(sheet)
        draw.text((6, row * _HEIGHT + 8), "\n".join(lines), fill=(230, 230, 230), font=font)
    return sheet


def save_preview(path: Path, table: TrackletTable) -> None:
    """Writes a contact sheet of a table's first six identities (0 and junk left out).

    Of each it shows three tracklets at most, one per camera where there are enough cameras. The
    ending of `path` decides the format.
    """
    chosen: list[int] = []
    for person in np.unique(table.person_ids[table.person_ids > 0])[:6]:
        own = np.flatnonzero(table.person_ids == person)
        firsts = own[np.unique(table.cameras[own], return_index=True)[1]]
        chosen += sorted([*firsts.tolist(), *np.setdiff1d(own, firsts).tolist()][:3])
    with whole_file(path) as temporary:
        image_format = "PNG" if path.suffix.lower() == ".png" else "JPEG"
        contact_sheet(table, chosen).save(temporary, format=image_format)
