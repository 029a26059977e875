"""The tracklets of all cameras of one recording, as a table to keep and a summary to read."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from stf_jax.prepare.tracks.cut import CameraCut
from stf_jax.prepare.tracks.track_files import TrackFile
from stf_jax.prepare.tracks.video import Video

ROLES = ("train", "query", "gallery")


@dataclass(frozen=True)
class Camera:
    """One camera's input, read and cut."""

    number: int
    video: Video
    tracks: TrackFile
    cut: CameraCut


@dataclass(frozen=True)
class Tracklets:
    """All tracklets of the output, over cameras in ascending order; arrays of length [n]."""

    person_ids: Int[np.ndarray, " n"]
    cameras: Int[np.ndarray, " n"]
    tracks: Int[np.ndarray, " n"]  # from 1 in each camera
    roles: Int[np.ndarray, " n"]  # index into ROLES
    names: tuple[tuple[str, ...], ...]  # image names of each


def tracklet_table(cameras: Sequence[Camera], tracklets: Tracklets) -> str:
    """CSV, a row a tracklet: where each comes from, in the ids and frame numbers of its file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = "name_prefix,person_id,camera,track,source_id,first_frame,last_frame,boxes,images,role"
    writer.writerow([*head.split(","), "frames_per_second"])
    row = 0
    for camera in cameras:
        cut, first = camera.cut, camera.tracks.first_frame
        for k in range(len(cut.source_ids)):
            names = tracklets.names[row]
            writer.writerow(
                [
                    names[0].rsplit("_", 1)[0],
                    tracklets.person_ids[row],
                    camera.number,
                    tracklets.tracks[row],
                    cut.source_ids[k],
                    cut.first_frames[k] + first,
                    cut.last_frames[k] + first,
                    cut.num_boxes[k],
                    len(names),
                    ROLES[tracklets.roles[row]],
                    "" if camera.video.rate is None else f"{camera.video.rate:.6g}",
                ]
            )
            row += 1
    return out.getvalue()


def summary(cameras: Sequence[Camera], tracklets: Tracklets, unlabelled: bool) -> str:
    """Tracklets, identities and pictures by role and camera; dropped boxes by reason."""
    lengths = np.array([len(names) for names in tracklets.names])
    lines = [f"{'':10}{'camera':>8}{'identities':>12}{'tracklets':>12}{'pictures':>10}"]

    def line(label: str, camera: str, rows: np.ndarray) -> str:
        people = len(np.unique(tracklets.person_ids[rows]))
        return f"{label:10}{camera:>8}{people:>12,}{rows.sum():>12,}{lengths[rows].sum():>10,}"

    for role, label in enumerate(ROLES):
        rows = tracklets.roles == role
        for camera in cameras:
            here = rows & (tracklets.cameras == camera.number)
            if here.any():
                lines.append(line(label, str(camera.number), here))
        if rows.any():
            lines.append(line(label, "all", rows))
    lines.append(line("all", "all", np.ones(len(lengths), bool)))
    queries, gallery = (tracklets.roles == ROLES.index(r) for r in ("query", "gallery"))
    if unlabelled:
        lines.append("unlabelled: identities are (camera, id) pairs; do not score this layout")
    else:
        lines.append(_shared_ids(tracklets))
    if not unlabelled and queries.any():
        distractors = gallery & ~np.isin(tracklets.person_ids, tracklets.person_ids[queries])
        people = len(np.unique(tracklets.person_ids[distractors]))
        lines.append(f"distractors: {distractors.sum()} gallery tracklets of {people} identities")
    elif not unlabelled and gallery.any():
        lines.append("no queries: no test identity is in a query camera and in another one")
    return "\n".join([*lines, *dropped_boxes(cameras)])


def dropped_boxes(cameras: Sequence[Camera]) -> list[str]:
    """Lines that say how many boxes of each camera gave no picture, by reason."""
    lines = ["boxes without a picture"]
    for camera in cameras:
        reasons = [f"{n:,} {reason}" for reason, n in camera.cut.dropped.items() if n]
        lines.append(f"  camera {camera.number}: {', '.join(reasons) or 'none'}")
    return lines


def _shared_ids(tracklets: Tracklets) -> str:
    """How many ids are taken for one person in several cameras."""
    pairs = np.unique(np.stack([tracklets.person_ids, tracklets.cameras], axis=1), axis=0)
    _, cameras = np.unique(pairs[:, 0], return_counts=True)
    return (
        f"{(cameras > 1).sum():,} of {len(cameras):,} ids are in several cameras and are taken for "
        "one person each; where a tracker numbered each camera for itself, use --ids camera"
    )
