"""`--val-share`: which identities are set aside, and what asks for what among them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stf_jax.data.layout.partitions import GALLERY, QUERY, load_layout
from stf_jax.errors import UserError
from stf_jax.evaluation.ranking import rank_gallery
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.prepare.validation import split_validation


def names_of(people, tracks=1, frames=2):
    """Image names of {person: cameras}."""
    return [
        image_name(person, camera, track, frame)
        for person, cameras in people.items()
        for camera in cameras
        for track in range(1, tracks + 1)
        for frame in range(frames)
    ]


def people_of(names):
    return {int(name.split("_")[0]) for name in names}


@given(
    people=st.dictionaries(
        st.integers(1, 99999), st.sets(st.integers(1, 6), min_size=2), min_size=3, max_size=12
    ),
    share=st.floats(0.01, 0.6),
    tracks=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_both_parts_are_whole_people_and_every_query_has_a_match(people, share, tracks, seed):
    names = names_of(people, tracks)
    split = split_validation(names, share)
    assert sorted(split.train + split.val) == sorted(names)
    assert not people_of(split.train) & people_of(split.val)
    assert len(people_of(split.val)) == max(1, round(share * len(people)))
    asking, there = (
        {name[:8] for name, mark in zip(split.val, split.marks, strict=True) if mark == wanted}
        for wanted in (QUERY, GALLERY)
    )  # person and camera
    assert {name[:6] for name in asking} == {name[:6] for name in there}
    assert not asking & there
    shuffled = np.random.default_rng(seed).permutation(names).tolist()
    assert split_validation(shuffled, share) == split


def test_the_same_people_on_every_machine():
    people = dict.fromkeys(range(1, 21), (1, 2, 3))
    split = split_validation(names_of(people), 0.2)
    assert people_of(split.val) == {8, 9, 13, 17}
    # Others join or leave: those set aside stay, as far as their number allows.
    more = split_validation(names_of(people | {99: (1, 2)}), 0.2)
    assert len(people_of(more.val) & people_of(split.val)) >= 3


def test_people_of_one_camera_junk_and_distractors_train():
    people = {-1: (1, 2), 0: (1, 2), 1: (1,), 2: (1, 2), 3: (2, 3), 4: (3,)}
    assert people_of(split_validation(names_of(people), 0.34).val) == {2, 3}
    with pytest.raises(UserError, match=r"needs 3 of 6 .*there are 2"):
        split_validation(names_of(people), 0.5)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(UserError, match="--val-share"):
        split_validation(names_of({1: (1, 2), 2: (1, 2)}), share)


def test_the_layout_has_all_subsets_and_its_val_can_be_ranked(tmp_path):
    names = names_of(dict.fromkeys(range(1, 9), (1, 2)))
    test = names_of(dict.fromkeys(range(11, 13), (1, 2)))
    marks = [QUERY if name[7] == "1" else GALLERY for name in test]
    given_ = {"trainval": names, "test": test, "test_marks": marks}
    path = write_partitions(tmp_path, **given_, val_share=0.25)
    before = path.read_bytes()
    (tmp_path / "images").mkdir()
    layout = load_layout(tmp_path, check_files=False)
    assert layout.train
    assert layout.val
    assert layout.trainval
    assert (layout.train.num_labels, layout.trainval.num_labels) == (6, 8)
    features = np.eye(9, dtype=np.float32)[layout.val.person_ids]
    query, gallery = layout.val.marks == QUERY, layout.val.marks == GALLERY
    found = rank_gallery(
        1 - features[query] @ features[gallery].T,
        query_ids=layout.val.person_ids[query],
        query_cameras=layout.val.cameras[query],
        gallery_ids=layout.val.person_ids[gallery],
        gallery_cameras=layout.val.cameras[gallery],
    )
    assert (found.valid_queries, found.mean_ap) == (2, 1.0)
    assert write_partitions(tmp_path, **given_, val_share=0.25).read_bytes() == before
    with pytest.raises(UserError, match="val of its own"):
        write_partitions(tmp_path, **given_, train=names, val_share=0.25)
    assert path.read_bytes() == before
