"""What the public data sets' owners count in them, and how a prepared one differs from that."""

from collections.abc import Mapping, Sequence

from stf_jax.prepare.published.source_tracklets import SourceTracklet

# Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-identification", ECCV 2016;
# counted in the tables of the authors' evaluation code.
MARS = {
    "train tracklets": 8_298,
    "train frames": 509_914,
    "train identities": 625,
    "train shortest": 5,
    "train longest": 900,
    **{
        f"train camera {camera} tracklets": count
        for camera, count in enumerate((1816, 1957, 1321, 750, 1880, 574), 1)
    },
    "test table tracklets": 12_180,
    "test table frames": 681_089,
    "test table identities": 636,
    "test table shortest": 2,
    "test table longest": 920,
    "query tracklets": 1_980,
    "query frames": 114_493,
    "query identities": 626,
    "query shortest": 2,
    "query longest": 880,
    **{
        f"query camera {camera} tracklets": count
        for camera, count in enumerate((524, 456, 319, 191, 384, 106), 1)
    },
    "gallery tracklets": 10_200,
    "gallery junk tracklets": 870,
    "gallery distractor tracklets": 3_248,
    "gallery people's tracklets": 6_082,
    "gallery people": 620,
    "queries unmatched in the gallery": 140,
    "25-frame chunks without junk": 31_273,
}

# Wang et al., "Person Re-Identification by Video Ranking", ECCV 2014.
ILIDS_VID = {
    "identities": 300,
    "tracklets": 600,
    "frames": 42_460,
    "splits": 10,
    "train identities of a split": 150,
    "query tracklets of a split": 150,
    "gallery tracklets of a split": 150,
}

# Hirzer et al., "Person Re-Identification by Descriptive and Discriminative Classification",
# SCIA 2011; the choice of 178 people and the splits are those of published results on video.
PRID2011 = {
    "identities": 178,
    "tracklets": 356,
    "splits": 10,
    "train identities of a split": 89,
    "query tracklets of a split": 89,
    "gallery tracklets of a split": 89,
}

# Ma et al., "Orientation driven bag of appearances for person re-identification",
# arXiv 1605.02464; ten random halvings are this project's.
PKU_REID = {
    "identities": 114,
    "tracklets": 228,
    "frames": 1_824,
    "shortest": 8,
    "longest": 8,
    "splits": 10,
    "train identities of a split": 57,
    "query tracklets of a split": 57,
    "gallery tracklets of a split": 57,
}

# Li et al., "Global-Local Temporal Representations for Video Person Re-Identification", ICCV 2019.
# The lists of validation are not in every copy of the data set.
LS_VID = {
    "train tracklets": 2_831,
    "train frames": 550_419,
    "train identities": 842,
    "test table tracklets": 11_333,
    "test table frames": 2_277_075,
    "test table identities": 2_730,
    "query tracklets": 3_504,
    "gallery tracklets": 7_829,
    "cameras": 15,
}
LS_VID_VAL = {"val tracklets": 779, "val frames": 155_191, "val identities": 200}


def basic_counts(prefix: str, tracklets: Sequence[SourceTracklet]) -> dict[str, int]:
    """Tracklets, frames, identities, shortest and longest, if there are any."""
    lengths = [len(tracklet.files) for tracklet in tracklets]
    found = {
        "tracklets": len(lengths),
        "frames": sum(lengths),
        "identities": len({tracklet.person_id for tracklet in tracklets}),
    }
    if lengths:
        found |= {"shortest": min(lengths), "longest": max(lengths)}
    return {f"{prefix} {what}": count for what, count in found.items()}


def comparison(title: str, found: Mapping[str, int], official: Mapping[str, int]) -> str:
    """A table of counts and the official ones, and a last line that says how many differ."""
    width = max(map(len, [*found, *official]), default=0)
    lines = [f"{title:{width}}  {'found':>11}{'official':>11}"]
    differing = 0
    for what in dict.fromkeys([*found, *official]):
        count, expected = found.get(what), official.get(what)
        shown = f"{'-' if count is None else format(count, ',d'):>11}"
        official_cell = f"{'-' if expected is None else format(expected, ',d'):>11}"
        difference = 0 if expected is None else (count or 0) - expected
        mark = (
            f"  {abs(difference):,} {'more' if difference > 0 else 'fewer'}" if difference else ""
        )
        lines.append(f"{what:{width}}  {shown}{official_cell}{mark}")
        differing += bool(difference)
    if differing:
        lines.append(f"{differing} of {len(official)} counts differ from the official data set's")
    else:
        lines.append(f"all {len(official)} official counts agree")
    return "\n".join(lines)
