"""`prepare verify` on layouts broken at random, against lists made the slow way."""

import io
import itertools
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from stf_jax.data.layout.partitions import load_layout
from stf_jax.data.pipeline import decode
from stf_jax.prepare.__main__ import main
from stf_jax.prepare.checking.images import check_images

NAME = re.compile(r"(-?\d+)_(\d)(\d*)_(\d+)\.(png|jpg|jpeg)", re.IGNORECASE)


def encoded(rng: np.random.Generator, kind: str, **options: object) -> bytes:
    pixels = rng.integers(0, 255, (int(rng.integers(4, 12)), 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def broken_layout(root: Path, seed: int) -> tuple[dict, set[str]]:
    """A layout with about every fourth thing wrong; returns its dict and the images of no use."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    subsets: dict[str, list[str]] = {"trainval": [], "test": []}
    marks: list[int] = []
    contents: list[bytes] = []
    useless = set()
    for person, camera, track in itertools.product(range(-1, 9), (1, 2, 3), (1, 2)):
        if rng.random() < 0.4:
            continue
        mark = int(rng.integers(0, 3))
        for offset in range(int(rng.integers(1, 4))):
            ext = ("png", "jpg", "JPG")[int(rng.integers(3))]
            name = f"{person:04d}_{camera}{track:03d}_{offset:03d}.{ext}"
            subset = "trainval" if person > 5 else "test"
            for _ in range(1 + (rng.random() < 0.05)):
                subsets[subset].append(name)
                if subset == "test":
                    draw = rng.random()
                    marks.append(7 if draw < 0.03 else (mark + 1) % 3 if draw < 0.08 else mark)
            if rng.random() < 0.05:
                other = f"{name.rpartition('.')[0]}.png"  # the same frame by another name
                if other != name:
                    subsets[subset].append(other)
                    marks += [mark] * (subset == "test")
                    (root / "images" / other).write_bytes(encoded(rng, "PNG"))
            content = encoded(rng, "PNG" if ext == "png" else "JPEG")
            if contents and rng.random() < 0.2:
                content = contents[int(rng.integers(len(contents)))]
            damage = rng.random()
            if damage < 0.12:
                useless.add(name)
                cut = int(rng.integers(2, len(content) - 2))
                ways = (b"", b"text", content[:cut], content[:cut] + bytes(len(content) - cut))
                content = ways[int(damage * 100) % 4]
            else:
                contents.append(content)
            if damage < 0.02:
                continue  # missing
            (root / "images" / name).write_bytes(content)
    for name in ("notes.txt", "0001_1001.png", "0001_1001_.jpg", "1_1_1_1.png"):
        subsets["test"].append(name)
        marks.append(1)
    order = rng.permutation(len(subsets["test"]))
    people = sorted({int(NAME.fullmatch(name)[1]) for name in subsets["trainval"]})  # pyright: ignore
    values = {
        "trainval_im_names": subsets["trainval"],
        "trainval_ids2labels": {f"{person:04d}": k for k, person in enumerate(people)},
        "test_im_names": [subsets["test"][k] for k in order],
        "test_marks": [marks[k] for k in order],
    }
    (root / "partitions.pkl").write_bytes(pickle.dumps(values))
    return values, useless


def bad_entries(names: list[str], marks: list[int] | None, useless: set[str]) -> list[str]:
    """Bad entries by the rules that the documentation states, one entry after the other."""
    bad = [NAME.fullmatch(name) is None or name in useless for name in names]
    keys = [tuple(map(int, m.groups()[:4])) if (m := NAME.fullmatch(n)) else None for n in names]
    for k in range(len(names)):
        bad[k] |= any(keys[j] == keys[k] and not bad[j] for j in range(k) if keys[j])
    if marks is not None:
        for k, key in enumerate(keys):
            same = [
                marks[j] for j, other in enumerate(keys) if key and other and other[:3] == key[:3]
            ]
            bad[k] |= len(set(same)) > 1 or not set(same) <= {0, 1, 2}
    return [name for name, is_bad in zip(names, bad, strict=True) if is_bad]


def unmatched(names: list[str], marks: list[int]) -> int:
    parsed = [NAME.fullmatch(name) for name in names]
    rows = {(m[1], m[2], m[3], mark) for m, mark in zip(parsed, marks, strict=True) if m}
    return sum(
        mark == 0 and not any(p == q and c != d and m == 1 for q, d, _, m in rows)
        for p, c, _, mark in rows
    )


def same_content(root: Path, names: dict[str, set[str]]) -> Counter[str]:
    """Groups of files of the same bytes, by what they share; of images of use."""
    by_content: dict[bytes, list[str]] = {}
    for name in sorted(set().union(*names.values())):
        by_content.setdefault((root / "images" / name).read_bytes(), []).append(name)
    found: Counter[str] = Counter()
    for group in by_content.values():
        if len(group) > 1:
            keys = {m.groups()[:3] for name in group if (m := NAME.fullmatch(name))}
            if {*group} & names["trainval"] and {*group} & names["test"]:
                found["in training and in ranked subsets"] += 1
            elif len({int(key[0]) for key in keys}) > 1:
                found["of different identities"] += 1
            elif len(keys) > 1:
                found["in different tracklets of one identity"] += 1
            else:
                found["within one tracklet"] += 1
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_layout_broken_at_random(seed: int, tmp_path: Path, capsys) -> None:
    values, useless = broken_layout(tmp_path, seed)
    before = (tmp_path / "partitions.pkl").read_bytes()
    assert main(["verify", str(tmp_path), "--fix", "fixed.pkl"]) == 1
    printed = capsys.readouterr().out
    expected = {
        "trainval": bad_entries(values["trainval_im_names"], None, useless),
        "test": bad_entries(values["test_im_names"], values["test_marks"], useless),
    }
    dropped = [
        line.split("\t") for line in (tmp_path / "fixed.pkl.dropped").read_text().split("\n")
    ]
    for subset, bad in expected.items():
        assert Counter(row[1] for row in dropped if row[0] == subset) == Counter(bad)
        assert len(bad) > 3
    assert f"without {sum(map(len, expected.values()))} entries" in printed
    assert (tmp_path / "partitions.pkl").read_bytes() == before

    layout = load_layout(tmp_path, "fixed.pkl")
    fixed = pickle.loads((tmp_path / "fixed.pkl").read_bytes())
    for subset, bad in expected.items():
        kept = Counter(values[f"{subset}_im_names"]) - Counter(bad)
        assert Counter(fixed[f"{subset}_im_names"]) == kept
        table = getattr(layout, subset)
        assert sorted(name.decode() for name in table.names) == sorted(kept)
    marks = dict(zip(values["test_im_names"], values["test_marks"], strict=True))
    assert fixed["test_marks"] == [marks[name] for name in fixed["test_im_names"]]

    assert main(["verify", str(tmp_path), "--partitions", "fixed.pkl"]) == 0
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.split("\n") if line.startswith("queries without a match")]
    assert int(line.split()[-1]) == unmatched(fixed["test_im_names"], fixed["test_marks"])
    groups = re.findall(r"same content: (\d+) groups of images ([a-z ]*[a-z]) \(", printed)
    names = {subset: set(fixed[f"{subset}_im_names"]) for subset in expected}
    assert {where: int(count) for count, where in groups} == dict(same_content(tmp_path, names))


def test_an_image_is_called_good_where_training_can_decode_it(tmp_path: Path) -> None:
    """Cut, zeroed at the end, or with another byte anywhere: both decoders must agree."""
    rng = np.random.default_rng(0)
    kinds = [encoded(rng, "JPEG"), encoded(rng, "JPEG", progressive=True), encoded(rng, "PNG")]
    for k in range(600):
        data, place = bytearray(kinds[k % 3]), int(rng.integers(len(kinds[k % 3])))
        match k // 3 % 4:
            case 0:
                data[place] ^= int(rng.integers(1, 256))
            case 1:
                del data[place:]
            case 2:
                data[place:] = bytes(len(data) - place)
            case _:
                data[place:place] = rng.bytes(3)
        (tmp_path / f"{k}").write_bytes(data)
    names = [f"{k}" for k in range(600)]
    problems = [check.problem for check in check_images(tmp_path, names)]
    for name, problem in zip(names, problems, strict=True):
        try:
            decode(tf.constant((tmp_path / name).read_bytes()))
        except tf.errors.OpError:
            assert problem, name
        else:
            assert not problem, (name, problem)
    assert 100 < sum(map(bool, problems)) < 590
