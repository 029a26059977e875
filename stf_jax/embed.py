"""Features of any tracklets with a trained run: `python -m stf_jax.main --mode embed`."""

import dataclasses
import itertools
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from stf_jax import hosts
from stf_jax.config import Config, changed, check_config
from stf_jax.data.layout.checks import examples
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.pictures import for_training, png_file
from stf_jax.data.source import evaluation_table
from stf_jax.errors import UserError
from stf_jax.evaluation.features.feature_files import (
    UNKNOWN_ID,
    FeatureSet,
    TrackletFeatures,
    feature_set,
)
from stf_jax.evaluation.features.origin import feature_origin
from stf_jax.evaluation.features.parts import extract_in_parts
from stf_jax.evaluation.features.sources import read_rates, read_sources
from stf_jax.evaluation.features.table import extract_table
from stf_jax.files import is_leftover, leftovers_note
from stf_jax.prepare.mot import cut_videos, parse_camera
from stf_jax.run.restore import default_checkpoint, restore_run
from stf_jax.run.run_files import run_config
from stf_jax.run.same_run import check_hosts
from stf_jax.run.tensor_checksums import digest

_LOG = logging.getLogger(__name__)
_IMAGE = re.compile(
    r".*\.(?:avif|bmp|jfif|jp2|jpe?g|pbm|pgm|png|ppm|tga|tiff?|webp)", re.IGNORECASE
)
_OTHER_IMAGE = re.compile(r".*\.(?:arw|cr2|dng|gif|heic|heif|jxl|nef|svg)", re.IGNORECASE)


def embed_tracklets(
    workdir: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    config: Config | None = None,
    checkpoint: str | None = None,
    camera: int = 1,
    frames_dir: str | os.PathLike[str] | None = None,
    parts_dir: str | os.PathLike[str] | None = None,
) -> FeatureSet:
    """Features and frame weights of the tracklets in `source` by the run in `workdir`.

    Of several hosts (`hosts.joined`) all have to call it: each extracts its share, and all get the
    whole.

    Args:
        workdir: of a training run.
        source: one of
            a folder of folders of frames: each folder with images is a tracklet, the frames by
            the numbers in their names;
            a layout (a folder with partitions.pkl): its `config.data.eval_subset`;
            "VIDEO:TRACKS": a video (or folder of frames) and the file of a tracker; `prepare mot`
            describes the formats, and prepares a layout first where its options are needed.
        config: by default what is stored in the workdir.
        checkpoint: best, latest, or a step; by default as `restore.default_checkpoint`.
        camera: number of the camera that frames or video are from; a layout has its own.
        frames_dir: for VIDEO:TRACKS, where the people cut out of it are written; a new folder, or
            that of the same call before.
        parts_dir: where parts of the features are kept (`features.parts`), so that the same call
            after a kill continues; the caller's to remove. None keeps none.

    Raises:
        UserError: what is not there, cannot be read or does not fit.
    """
    used = run_config(Path(workdir)) if config is None else config
    check_config(used)
    # The source first: one that is not there should not wait for the model.
    found = _read_source(os.fspath(source), used, camera, frames_dir)
    extractor = Extractor(workdir, config=used, checkpoint=checkpoint)
    return extractor.of_table(*found, parts_dir=None if parts_dir is None else Path(parts_dir))


Frames = Sequence[str | os.PathLike[str] | np.ndarray] | np.ndarray | str | os.PathLike[str]
"""One person's frames: image files or arrays [H, W, 3], an array [T, H, W, 3], or a single image.

Arrays are uint8, RGB, of any size.
"""


class Extractor:
    """The model of a run, loaded once, for any number of calls.

    Calls of a number of frames that was not seen before are compiled, for at most a handful of
    sizes.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        config: Config | None = None,
        checkpoint: str | None = None,
    ) -> None:
        """Load checkpoint `checkpoint` (best, latest, or a step) of the run in `workdir`.

        By default the one that `restore.default_checkpoint` gives, and the run's own config.
        Raises UserError where there is none.
        """
        workdir = Path(workdir)
        self.config = run_config(workdir) if config is None else config
        check_config(self.config)
        which = checkpoint or default_checkpoint(workdir)
        self._model, self._variables, step = restore_run(self.config, workdir, which)
        self.origin = feature_origin(self.config, digest(self._variables), step)

    def __call__(
        self,
        source: str | os.PathLike[str],
        *,
        camera: int = 1,
        frames_dir: str | os.PathLike[str] | None = None,
    ) -> FeatureSet:
        """Features and frame weights of a folder, layout or video: see `embed_tracklets`."""
        return self.of_table(*_read_source(os.fspath(source), self.config, camera, frames_dir))

    def of_table(
        self,
        table: TrackletTable,
        titles: np.ndarray | None = None,
        *,
        parts_dir: Path | None = None,
    ) -> FeatureSet:
        """Features and frame weights of a table's tracklets.

        With `titles` [N], text, its images are any pictures; without, those of a layout.
        `parts_dir` is that of `embed_tracklets`.
        """
        check_hosts(self.config, (table,), self._variables)

        def extract(part: TrackletTable, label: str) -> TrackletFeatures:
            return extract_table(
                self._model,
                self._variables,
                part,
                self.config,
                read_frames=None if titles is None else _upright_frames(part),
                label=label,
                few_sizes=parts_dir is not None,
            )

        if parts_dir is None:
            found = extract(table, "features")
        else:
            found = extract_in_parts(extract, table, self.origin, parts_dir)
        known = {"sources": read_sources(table), "rates": read_rates(table)}
        return feature_set(table, found, origin=self.origin, titles=titles, **known)

    def feature(self, frames: Frames) -> Float32[np.ndarray, " d"]:
        """The feature of one person's frames, of unit length."""
        return self.features([frames])[0]

    def features(self, tracklets: Sequence[Frames]) -> Float32[np.ndarray, "n d"]:
        """The features of N people's frames, one of unit length for each.

        Raises UserError for a tracklet without frames, an array of another shape or type, or a
        file that is no image.
        """
        images = [_images(frames, number) for number, frames in enumerate(tracklets)]
        flat = [image for group in images for image in group]
        if not images:
            raise UserError("tracklets: none; expected some")
        names = [os.fsencode(f) if isinstance(f, Path) else b"array" for f in flat]
        table = _unknown_people(Path(), names, [*map(len, images)], camera=1)

        def read(rows: np.ndarray) -> list[bytes]:
            return [_bytes_of(flat[row]) for row in rows]

        found = extract_table(
            self._model, self._variables, table, self.config, read_frames=read, few_sizes=True
        )
        return found.features


def _images(frames: Frames, number: int) -> Sequence[Path | np.ndarray]:
    """The frames of tracklet `number`, one by one."""
    if isinstance(frames, str | os.PathLike):
        return _images([frames], number)
    if isinstance(frames, np.ndarray) and frames.ndim == 3:
        frames = frames[None]
    images = [f if isinstance(f, np.ndarray) else Path(f) for f in frames]
    if not images:
        raise UserError(f"tracklet {number}: no frames; expected some")
    for image in images:
        if isinstance(image, Path) and not image.is_file():
            raise UserError(f"{image}: no such file; expected an image of tracklet {number}")
        if isinstance(image, np.ndarray) and (
            image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size
        ):
            raise UserError(
                f"tracklet {number}: a frame of {image.dtype} {list(image.shape)}; expected uint8 "
                "[H, W, 3]"
            )
    return images


def _bytes_of(image: Path | np.ndarray) -> bytes:
    if isinstance(image, Path):
        return for_training(image.read_bytes())
    return png_file(Image.fromarray(image))


def _read_source(
    source: str, config: Config, camera: int, frames_dir: str | os.PathLike[str] | None
) -> tuple[TrackletTable, np.ndarray | None]:
    """The tracklets of a source and what to call them."""
    path = Path(source)
    if path.is_dir():
        if (path / config.data.partitions).is_file():
            return evaluation_table(_config_of_layout(config, source).data), None
        return frame_folders(path, camera)
    if ":" in source:
        if frames_dir is None:
            raise UserError(f"{source}: frames_dir is missing; expected a folder for the pictures")
        return _video(source, config, camera, Path(frames_dir))
    raise UserError(
        f"{source}: no such folder; expected a folder of folders of frames, a layout, or "
        "VIDEO:TRACKS"
    )


def _upright_frames(table: TrackletTable) -> Callable[[np.ndarray], Sequence[bytes]]:
    """From rows to files that the pipeline decodes: those of a layout already are such."""

    def read(rows: np.ndarray) -> list[bytes]:
        names = [os.fsdecode(name) for name in table.names[rows].tolist()]
        return [for_training((table.image_dir / name).read_bytes()) for name in names]

    return read


def _config_of_layout(config: Config, root: str) -> Config:
    """`config` with the image files of the layout in `root` as its data."""
    return changed(config, {"data.root": root, "data.source": "folder"})


def frame_folders(root: Path, camera: int = 1) -> tuple[TrackletTable, np.ndarray]:
    """The tracklets of a folder of folders of frames, and their titles (paths below `root`).

    Every folder with pictures in it that Pillow reads (PNG, JPEG, WebP, TIFF, BMP ...) is one
    tracklet; its frames are in the order of the numbers in their names. Links to folders are
    followed. Hidden files and what operating systems leave are passed over, pictures of other
    formats left out, both with a line in the log.
    Persons are unknown.

    Raises:
        UserError: no image anywhere in it, or folders that link in a circle.
    """
    names, lengths, titles = [], [], []
    leftovers: list[str] = []
    others: list[str] = []
    for folder, below, files in os.walk(root, followlinks=True):
        inside = os.path.relpath(folder, root)
        if os.path.islink(folder) and _is_in_itself(Path(folder), root):
            raise UserError(f"{folder}: links to a folder that it is in; remove the link")
        leftovers += [
            os.path.normpath(os.path.join(inside, name))
            for name in (*below, *files)
            if is_leftover(name)
        ]
        below[:] = sorted((name for name in below if not is_leftover(name)), key=_natural)
        own = sorted((name for name in files if not is_leftover(name)), key=_natural)
        frames = [name for name in own if _IMAGE.fullmatch(name)]
        others += [
            os.path.normpath(os.path.join(inside, n)) for n in own if _OTHER_IMAGE.fullmatch(n)
        ]
        if frames:
            titles.append(root.resolve().name if inside == "." else inside)
            lengths.append(len(frames))
            names += [os.fsencode(os.path.normpath(os.path.join(inside, f))) for f in frames]
    if leftovers:
        _LOG.warning(leftovers_note(root, leftovers))
    if others:
        _LOG.warning(
            "%s: %d pictures of formats that are not read are left out (%s); convert them",
            *(root, len(others), examples(others)),
        )
    if not names:
        raise UserError(
            f"{root}: neither a layout nor a folder of folders of frames; expected partitions.pkl, "
            "or pictures in a folder for each tracklet"
        )
    return _unknown_people(root, names, lengths, camera), np.array(titles)


def _unknown_people(
    image_dir: Path, names: Sequence[bytes], lengths: Sequence[int], camera: int
) -> TrackletTable:
    """Tracklets of these lengths, one after the other in `names`, of nobody known."""
    count = len(lengths)
    return TrackletTable(
        image_dir=image_dir,
        names=np.array(names, "S"),
        offsets=np.cumsum([0, *lengths]),
        person_ids=np.full(count, UNKNOWN_ID, np.int64),
        cameras=np.full(count, camera, np.int64),
        tracks=np.arange(1, count + 1),
        marks=np.full(count, -1, np.int8),
        labels=np.full(count, -1, np.int64),
    )


def _is_in_itself(folder: Path, root: Path) -> bool:
    """Whether `folder`, reached from `root`, is one of those on the way to it."""
    above = itertools.takewhile(lambda path: path != root.parent, folder.parents)
    return folder.resolve() in {path.resolve() for path in above}


def _video(
    source: str, config: Config, camera: int, frames_dir: Path
) -> tuple[TrackletTable, np.ndarray]:
    """Cuts the people out of a video along its tracks and reads them as a layout."""

    def cut_people() -> None:
        cut_videos([parse_camera(f"{camera}:{source}")], frames_dir, to_embed=True)

    hosts.from_first(cut_people)
    layout = _config_of_layout(config, str(frames_dir))
    cut = {"data.partitions": "partitions.pkl", "data.eval_subset": "test"}
    table = evaluation_table(changed(layout, cut).data)
    sources = read_sources(table)
    assert sources is not None
    titles = np.array(
        [f"camera {camera}, id {i}, frames {first}-{last}" for i, first, last in sources.tolist()]
    )
    unknown = np.full(table.num_tracklets, UNKNOWN_ID, np.int64)
    return dataclasses.replace(table, person_ids=unknown), titles


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts names by their numbers' values: 9.png before 10.png."""
    parts = re.split(r"([0-9]+)", name)
    key = [(1, int(p), "") if p.isdecimal() and p.isascii() else (0, 0, p) for p in parts if p]
    return key, name
