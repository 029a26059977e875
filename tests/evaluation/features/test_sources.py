"""The tracker's ids of a layout's tracklets, and its pieces joined."""

from pathlib import Path

import numpy as np
from drawn_tracklets import draw

from stf_jax.evaluation.features.feature_files import read_features, tracklet_name, write_features
from stf_jax.evaluation.features.sources import join_pieces, read_sources


def test_ids_come_from_the_table_of_the_layout(tmp_path: Path) -> None:
    drawn = draw(tmp_path)
    assert read_sources(drawn.table) is None
    (tmp_path / "tracklets.csv").write_text(
        "name_prefix,source_id,first_frame,last_frame\n0001_1001,44,3,11\n00-1_2001,5,1,7\n"
    )
    found = read_sources(drawn.table)
    assert found is not None
    assert found[:3].tolist() == [[5, 1, 7], [44, 3, 11], [-1, -1, -1]]
    assert (found[3:] == -1).all()


def test_pieces_of_a_track_are_one_tracklet_of_their_mean(tmp_path: Path) -> None:
    drawn = draw(tmp_path)
    features, table = drawn.feature_set(), drawn.table
    assert join_pieces(features) is features
    rows = np.flatnonzero((table.person_ids == 2) & (table.cameras == 2))  # three tracklets
    sources = np.full((table.num_tracklets, 3), -1)
    sources[rows] = [[6, 100, 120], [6, 1, 30], [9, 5, 8]]
    given = type(features)(**{**vars(features), "sources": sources})
    write_features(tmp_path / "f.npz", given)
    stored = read_features(tmp_path / "f.npz")
    joined = join_pieces(stored)
    assert joined.num_tracklets == table.num_tracklets - 1
    at = int(rows[0])
    counts = drawn.found.num_frames[rows[:2]].astype(float)
    mean = (drawn.found.features[rows[:2]] * counts[:, None]).sum(0)
    np.testing.assert_allclose(joined.features[at], mean / np.linalg.norm(mean), rtol=1e-5)
    assert joined.num_frames[at] == counts.sum()
    assert joined.sources is not None
    assert joined.sources[at : at + 2].tolist() == [[6, 1, 120], [9, 5, 8]]
    assert tracklet_name(joined, at) == "camera 2, id 6, frames 1-120 (2 pieces)"
    assert tracklet_name(joined, at + 1) == "person 2, camera 2, track 3, id 9, frames 5-8"
    longest = int(rows[counts.argmax()])
    frames = slice(joined.offsets[at], joined.offsets[at + 1])
    wanted = table.names[table.offsets[longest] : table.offsets[longest + 1]]
    assert joined.names[frames].tolist() == wanted.tolist()
    others = np.delete(np.arange(table.num_tracklets), rows[:2])
    kept = np.delete(np.arange(joined.num_tracklets), at)
    np.testing.assert_array_equal(joined.features[kept], drawn.found.features[others])


def test_one_line_says_what_a_set_is(tmp_path: Path) -> None:
    features = draw(tmp_path).feature_set()
    assert repr(features) == (
        f"FeatureSet(21 tracklets of 173 frames, 4 numbers each, cameras [1, 2, 3, 4], "
        f"{features.image_dir})"
    )
