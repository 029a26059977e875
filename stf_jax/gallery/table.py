"""A gallery's table in LanceDB: what a row holds, opened, created, described.

A gallery is a folder or the address of an object store (s3://bucket/folder) with one table,
`tracklets`. The schema's metadata hold the origin of its features: those of another are refused.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stf_jax.errors import UserError, import_extra, raise_system_fault
from stf_jax.evaluation.features.origin import FeatureOrigin

TABLE = "tracklets"
REACHED = (  # what an object store's address has to be
    "an address that is reached, with credentials (AWS_ENDPOINT, AWS_ACCESS_KEY_ID ...) that may "
    "read and write there"
)
_ORIGIN = b"stf_jax.origin"


@dataclass(frozen=True, eq=False)
class Gallery:
    """An open gallery: where it is, its table, and the origin of its features."""

    where: str
    database: Any
    table: Any
    origin: FeatureOrigin

    @property
    def dimensions(self) -> int:
        """The numbers of a feature."""
        return self.table.schema.field("feature").type.list_size


def schema(origin: FeatureOrigin, dimensions: int) -> Any:
    """The columns of a gallery's table, and its origin in their metadata.

    `id` is the tracklet's digest (`rows.tracklet_ids`). Empty where not known: person, the
    tracker's id, first and last frame, frame rate, the times at which the tracklet was seen (UTC)
    and the thumbnail, a JPEG of a few frames.
    """
    pa = import_extra("pyarrow", "gallery")
    known = [
        ("id", pa.binary(16)),
        ("feature", pa.list_(pa.float32(), dimensions)),
        *((name, pa.int64()) for name in ("camera", "track", "num_frames")),
        *((name, pa.string()) for name in ("name", "source", "image_dir")),
    ]
    optional = [
        *((name, pa.int64()) for name in ("person", "tracker_id", "first_frame", "last_frame")),
        ("frame_rate", pa.float64()),
        *((name, pa.timestamp("us")) for name in ("seen_from", "seen_to")),
        ("thumbnail", pa.large_binary()),
    ]
    fields = [pa.field(*column, nullable=False) for column in known]
    fields += [pa.field(*column) for column in optional]
    return pa.schema(fields, metadata={_ORIGIN: json.dumps(vars(origin))})


def create_gallery(where: str, origin: FeatureOrigin, dimensions: int) -> Gallery:
    """Make an empty gallery for features of `origin`; UserError where there is one."""
    database = connect(where)
    if _opened(database, where) is not None:
        raise UserError(f"{where}: is a gallery already; add to it, or name another folder")
    with reported(where):
        table = database.create_table(TABLE, schema=schema(origin, dimensions))
    return Gallery(where, database, table, origin)


def open_gallery(where: str) -> Gallery:
    """Open a gallery at its last whole version; UserError where there is none."""
    missing = UserError(f"{where}: no gallery; make one: python -m stf_jax.gallery create")
    if not is_remote(where) and not Path(where).is_dir():
        raise missing
    database = connect(where)
    table = _opened(database, where)
    if table is None:
        raise missing
    try:
        values = json.loads(table.schema.metadata[_ORIGIN])
        origin = FeatureOrigin(**values)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{where}: its table {TABLE} has no origin of features; expected a gallery that "
            "python -m stf_jax.gallery create made"
        ) from None
    return Gallery(where, database, table, origin)


@contextmanager
def reported(where: str) -> Iterator[None]:
    """What LanceDB refuses inside, in a line: UserError, or OSError of a disk or network."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if not is_remote(where) and Path(where).exists():
            raise_system_fault(error, where)
        reason = " ".join(str(error).split())
        expected = (
            REACHED
            if is_remote(where)
            else "a gallery that is whole: what was written before is in its earlier versions"
        )
        raise UserError(
            f"{where}: LanceDB cannot read or write it ({reason:.300}); expected {expected}"
        ) from error


def connect(where: str) -> Any:
    """LanceDB's connection to a folder or an address."""
    lancedb = import_extra("lancedb", "gallery")
    with reported(where):
        return lancedb.connect(where)


def _opened(database: Any, where: str) -> Any:
    with reported(where):
        names, token = [], None
        while not names or token:
            page = database.list_tables(page_token=token)
            names, token = [*names, *page.tables], page.page_token
            if not page.tables:
                break
        return database.open_table(TABLE) if TABLE in names else None


def is_remote(where: str) -> bool:
    """Whether it is the address of an object store, not a folder."""
    return "://" in where
