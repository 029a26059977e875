"""Formats often mistaken for MOT-challenge track files, each refused by name."""

import math
import re
from collections.abc import Sequence


def other_format(fields: Sequence[str], numbers: Sequence[float]) -> str | None:
    """The format that a file's first line shows, and how to fix it; None: perhaps tracks.

    `numbers` are the fields', NaN where one is not a number.

    KITTI: 17 columns (18 with a score), a class by name in the third; its boxes are corners.
    YOLO labels, as ultralytics' save_txt writes them: class, centre and size as shares of the
    picture [, confidence] [, id], a file a frame, the frame in the file's name.
    """
    if fields[0].startswith(("{", "[")):
        return "is JSON; write a line for each box instead"
    if fields[0].startswith("<"):
        return "is XML (CVAT, PASCAL VOC); export the tracks as MOT"
    whole = [re.fullmatch(r"[0-9]+", field) is not None for field in fields]
    if whole[:5] == [True] * 5 and len(fields) == 6 and len(fields[5]) > 3 and not whole[5]:
        return (
            "is in MOTS's format, whose sixth column is a mask; write a box around each mask as "
            "left, top, width, height"
        )
    if len(fields) > 7 and numbers[1:2] == [(len(fields) - 2) / 6] and math.isnan(numbers[7]):
        return (
            "is in DarkLabel's format, a line a frame with all its boxes and their labels; export "
            "it a line a box: frame,id,left,top,width,height"
        )
    if any(";" in field for field in fields):
        return "has semicolons; separate the columns by commas or white space"
    if len(fields) in (17, 18) and re.fullmatch(r"[A-Za-z_]+", fields[2]):
        return (
            "is in KITTI's format, whose columns 7 to 10 are left, top, right, bottom; write the "
            "boxes as left, top, width, height"
        )
    shares = [0 <= number <= 1 for number in numbers[1:5]]
    if whole[0] and 5 <= len(fields) <= 7 and all(shares) and "." in "".join(fields[1:5]):
        return (
            "looks like YOLO labels of one frame (class, centre and size as shares of the "
            "picture); have the tracker write one file of tracks for the video"
        )
    if all(re.fullmatch(r"\"?[A-Za-z_][\w .()\[\]/%-]*\"?", field) for field in fields):
        return f"begins with a header ({','.join(fields)[:60]}); remove that line"
    return None
