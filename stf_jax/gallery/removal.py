"""Tracklets removed from a gallery, and from the disk."""

import datetime
import warnings
from collections.abc import Sequence

from stf_jax.errors import UserError, import_extra
from stf_jax.gallery.table import TABLE, Gallery, reported


def chosen(
    *,
    ids: Sequence[str] = (),
    people: Sequence[int] = (),
    cameras: Sequence[int] = (),
    sources: Sequence[str] = (),
    before: datetime.datetime | None = None,
) -> str:
    """SQL for tracklets that are of one of each kind given; UserError where none is given.

    `ids` are hexadecimal; `before` is a time in UTC: what was seen last before it.
    """
    parts = []
    if ids:
        try:
            parts.append(f"id IN ({', '.join(f'X{bytes.fromhex(i).hex()!r}' for i in ids)})")
        except ValueError:
            raise UserError(f"--id {' '.join(ids)}: expected ids as a search writes them") from None
    for column, numbers in (("person", people), ("camera", cameras)):
        if numbers:
            parts.append(f"{column} IN ({', '.join(map(str, numbers))})")
    if sources:
        quoted = ", ".join("'" + source.replace("'", "''") + "'" for source in sources)
        parts.append(f"source IN ({quoted})")
    if before is not None:
        parts.append(f"seen_to < timestamp '{before}'")
    if not parts:
        raise UserError(
            "nothing to remove: expected --id, --person, --camera, --source or --before, or "
            "--purge alone"
        )
    return " AND ".join(parts)


def remove(gallery: Gallery, where: str) -> int:
    """Remove the tracklets that `where` (SQL) keeps, their features and thumbnails; how many.

    Earlier versions of the table hold them until `purge`. UserError where there is none.
    """
    with reported(gallery.where):
        count = gallery.table.count_rows(where)
        if count:
            gallery.table.delete(where)
    if not count:
        raise UserError(f"{gallery.where}: no such tracklet ({where}); nothing was removed")
    return count


def purge(gallery: Gallery) -> None:
    """Write the table anew and delete every earlier version: what was removed is on no disk.

    LanceDB marks rows as deleted, and would keep the bytes of a few of them in its files. Indexes
    go, too. Others that read the gallery meanwhile may fail.
    """
    pa = import_extra("pyarrow", "gallery")
    with reported(gallery.where), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that every version but the last one goes
        rows = gallery.table.search().to_batches(batch_size=1024)
        reader = pa.RecordBatchReader.from_batches(gallery.table.schema, rows)
        table = gallery.database.create_table(TABLE, data=reader, mode="overwrite")
        table.optimize(cleanup_older_than=datetime.timedelta(0), delete_unverified=True)
