"""A run is scored, embeds tracklets from anywhere and matches them; one tiny random run for all."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import draw_variables, tiny_config, write_run

import stf_jax
from stf_jax import embed
from stf_jax.data.layout.partitions import load_layout
from stf_jax.embed import frame_folders
from stf_jax.errors import UserError
from stf_jax.evaluation import rank_gallery
from stf_jax.evaluation.centring import camera_means
from stf_jax.evaluation.features import parts
from stf_jax.evaluation.features.feature_files import FeatureSet, read_features, write_features
from stf_jax.evaluation.scoring import rank_table
from stf_jax.main import main
from stf_jax.models import build_model
from stf_jax.models.weights.files import write_tensors
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.run.metrics_log import MetricsLog
from stf_jax.run.tensor_checksums import digest
from stf_jax.weights import main as weights_main

CONFIGS = Path(__file__).parents[1] / "configs"
PEOPLE, LENGTH = 5, 6  # LENGTH: a chunk of four frames and one of two


def make_layout(root: Path) -> Path:
    """People of two colours, two cameras, two queries each in camera 1."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    names, marks = [], []
    for person in range(PEOPLE):
        colours = rng.integers(0, 256, (2, 3))
        for camera, track in ((1, 1), (1, 2), (2, 1)):
            for offset in range(LENGTH):
                image = np.repeat(colours, 16, 0)[:, None] + rng.normal(0, 20, (32, 16, 3))
                name = image_name(person, camera, track, offset)
                pixels = np.clip(image, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / "images" / name)
                names.append(name)
                marks.append(0 if camera == 1 else 1)
    write_partitions(root, trainval=[], test=names, test_marks=marks)
    return root


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_layout(tmp_path_factory.mktemp("layout") / "set")


@pytest.fixture(scope="module")
def workdir(layout: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run that was never trained, evaluated once."""
    workdir = tmp_path_factory.mktemp("run")
    values = {"data.root": str(layout), "compilation_cache": str(workdir / "cache")}
    config = tiny_config(**values)
    write_run(workdir, config, draw_variables(build_model(config.model, 3)))
    with MetricsLog(workdir, tensorboard=False) as log:
        log.write(1, {"loss": 2.0})
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    assert main(["--mode", "evaluate", "--workdir", str(workdir)]) == 0
    yield workdir
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def features(workdir: Path) -> FeatureSet:
    return read_features(workdir / "features.npz")


def same_features(ours: FeatureSet, theirs: FeatureSet) -> None:
    np.testing.assert_allclose(ours.features, theirs.features, atol=1e-5)
    np.testing.assert_allclose(ours.frame_weights, theirs.frame_weights, atol=1e-5)
    assert ours.offsets.tolist() == theirs.offsets.tolist()


def test_evaluation_writes_scores_features_and_report(workdir: Path, features: FeatureSet) -> None:
    scores = json.loads((workdir / "scores.json").read_text())
    assert scores["rows"].keys() == {"step"}
    assert scores["rows"]["step"]["valid_queries"] == 2 * PEOPLE
    assert features.num_tracklets == 3 * PEOPLE
    assert (features.origin.chunk, features.num_frames.tolist()) == (4, [LENGTH] * 3 * PEOPLE)
    page = (workdir / "report" / "index.html").read_text()
    assert f"{100 * scores['rows']['step']['scores']['mAP']:.1f}" in page
    assert "Loss" in page  # the training curve
    strips = {path.name for path in (workdir / "report" / "strips").iterdir()}
    assert len(strips) == 2 * PEOPLE + PEOPLE
    with Image.open(workdir / "report" / "strips" / "q000000.jpg") as strip:
        pixels = np.asarray(strip.convert("RGB")).astype(float)
    with Image.open(Path(features.image_dir) / "000000_10001_000000.png") as frame:
        colour = np.asarray(frame).astype(float)[:14].mean((0, 1))
    np.testing.assert_allclose(pixels[:40, :48].mean((0, 1)), colour, atol=8)


def test_every_option_of_the_evaluation(workdir: Path, features: FeatureSet, tmp_path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy, ignore=shutil.ignore_patterns("report", "cache"))
    options = [
        "--config.evaluation.protocols=('step','step+queries','mars-official')",
        "--config.evaluation.rerank=True",
        "--config.evaluation.multi_query=mean",
        "--config.evaluation.single_gallery_shot=True",
        "--config.evaluation.separate_camera_set=True",
        "--config.evaluation.chunk_weighting=frames",
    ]
    assert (
        main(["--mode", "evaluate", "--workdir", str(copy), *options, "--output", str(copy)]) == 0
    )
    assert (copy / "report").exists()
    options += ["--no-report", "--output", str(copy)]
    assert main(["--mode", "evaluate", "--workdir", str(copy), *options]) == 0
    assert not (copy / "report").exists()  # it would be of other scores
    rows = json.loads((copy / "scores.json").read_text())["rows"]
    plain = ["step", "step+queries", "mars-official"]
    assert list(rows) == [*plain, *(f"{name}, re-ranked" for name in plain)]
    for label, row in rows.items():
        used = row["options"]
        assert row["num_queries"] == PEOPLE  # pooled: one a person and camera
        assert used["single_gallery_shot"]
        assert used["separate_camera_set"]
        assert (used["multi_query"], used["chunk_weighting"]) == ("mean", "frames")
        assert used["reranked"] == ("re-ranked" in label)

    # The pooled score again, computed here from the features.
    weighted = read_features(copy / "features.npz")
    assert abs(weighted.features - features.features).max() > 1e-6
    queries = weighted.features.reshape(PEOPLE, 3, -1)[:, :2].mean(1)
    gallery = weighted.features.reshape(PEOPLE, 3, -1)[:, 2]
    wanted = rank_gallery(
        np.linalg.norm(queries[:, None] - gallery[None], axis=-1),
        query_ids=np.arange(PEOPLE),
        gallery_ids=np.arange(PEOPLE),
        query_cameras=np.ones(PEOPLE, int),
        gallery_cameras=np.full(PEOPLE, 2),
    )
    assert rows["step"]["scores"]["mAP"] == pytest.approx(wanted.mean_ap)


def test_a_layout_embeds_as_it_was_evaluated(
    workdir: Path, layout: Path, features: FeatureSet, tmp_path: Path, capsys
) -> None:
    output = tmp_path / "new" / "people.npz"
    arguments = ["--mode", "embed", "--workdir", str(workdir), "--input", str(layout)]
    assert main([*arguments, "--output", str(output)]) == 0
    assert f"{3 * PEOPLE} tracklets, {3 * PEOPLE * LENGTH} frames" in capsys.readouterr().out
    found = read_features(output)
    same_features(found, features)
    assert found.person_ids.tolist() == features.person_ids.tolist()
    assert found.origin == features.origin


def test_a_killed_embedding_continues(
    workdir: Path, layout: Path, features: FeatureSet, tmp_path: Path, monkeypatch, caplog
) -> None:
    output = tmp_path / "people.npz"
    arguments = ["--mode", "embed", "--workdir", str(workdir), "--input", str(layout)]
    extract_in_parts, extract_table = parts.extract_in_parts, embed.extract_table
    monkeypatch.setattr(embed, "extract_in_parts", partial(extract_in_parts, frames=4 * LENGTH))
    done = []

    def stops(*arguments, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return extract_table(*arguments, **options)

    monkeypatch.setattr(embed, "extract_table", stops)
    with pytest.raises(KeyboardInterrupt):
        main([*arguments, "--output", str(output)])
    kept = sorted(path.name for path in (tmp_path / "people_parts").iterdir())
    assert kept == ["00000.npz", "00001.npz"]
    assert not output.exists()
    done[:] = [1] * 3
    assert main([*arguments, "--output", str(output)]) == 0
    assert len(done) == 3 + -(-3 * PEOPLE // 4) - 2
    same_features(read_features(output), features)
    assert [path.name for path in tmp_path.iterdir()] == ["people.npz"]


def test_origin_is_that_of_the_checkpoint_on_any_number_of_devices(
    workdir: Path, layout: Path, features: FeatureSet, tmp_path: Path
) -> None:
    variables = draw_variables(build_model(tiny_config().model, 3))
    del variables["params"]["classifier"]  # it enters no feature
    assert features.origin.weights_digest == digest(variables)
    assert features.origin.step == 0
    output = tmp_path / "people.npz"
    command = [sys.executable, "-m", "stf_jax.main", "--mode", "embed", "--workdir", str(workdir)]
    command += ["--input", str(layout), "--output", str(output)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run(command, check=True, timeout=300, env=environment)
    found = read_features(output)
    same_features(found, features)
    assert jax.device_count() == 2
    assert found.origin == features.origin


def test_folders_of_frames_embed_as_the_layout_does(
    workdir: Path, layout: Path, features: FeatureSet, tmp_path: Path
) -> None:
    """Frames 7, 8, 9, 10 ... come in the order of their numbers, and so do folders."""
    for row in range(features.num_tracklets):
        folder = tmp_path / "frames" / "yard" / f"track {row + 5}"
        folder.mkdir(parents=True)
        first = int(features.offsets[row])
        for k in range(LENGTH):
            source = layout / "images" / features.names[first + k].decode()
            if (
                k % 2
            ):  # lossless, of another format, and as a camera that lies on its side stores it
                turned = Image.Exif()
                turned[0x0112] = 6
                stored = Image.open(source).transpose(Image.Transpose.ROTATE_90)
                stored.save(folder / f"frame{k + 7}.webp", lossless=True, exif=turned)
            else:
                shutil.copy(source, folder / f"frame{k + 7}.PNG")
        (folder / "notes.txt").write_text("not a frame")
        (folder / ".hidden.png").write_text("not a frame either")
    found = stf_jax.embed_tracklets(workdir, tmp_path / "frames", camera=3)
    same_features(found, features)
    assert found.titles[0] == "yard/track 5"
    assert found.titles[-1] == f"yard/track {3 * PEOPLE + 4}"
    assert set(found.cameras) == {3}
    assert set(found.person_ids) == {-1}


def test_a_video_with_tracks(workdir: Path, tmp_path: Path, capsys) -> None:
    """What is cut out of the pictures embeds as the same pictures in folders."""
    rng = np.random.default_rng(3)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    lines = []
    for frame in range(1, 6):
        picture = rng.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(picture).save(pictures / f"{frame:04d}.png")
        for person, left in ((4, 3), (9, 40)):
            lines.append(f"{frame},{person},{left},5,16,32,0.9,-1,-1,-1\n")
            folder = tmp_path / "frames" / str(person)
            folder.mkdir(parents=True, exist_ok=True)
            crop = picture[5 : 5 + 32, left : left + 16]
            Image.fromarray(crop).save(folder / f"{frame}.png")
    (tmp_path / "tracks.txt").write_text("".join(lines))
    output = tmp_path / "hall.npz"
    arguments = ["--workdir", str(workdir), "--input", f"{pictures}:{tmp_path / 'tracks.txt'}"]
    assert main(["--mode", "embed", *arguments, "--camera", "7", "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "boxes without a picture" in said
    assert not any(word in said for word in ("gallery", "score", "layout"))
    found = read_features(output)
    assert found.titles.tolist() == [f"camera 7, id {i}, frames 1-5" for i in (4, 9)]
    assert found.cameras.tolist() == [7, 7]
    assert found.sources is not None
    assert found.sources.tolist() == [[4, 1, 5], [9, 1, 5]]
    assert Path(found.image_dir) == tmp_path / "hall_frames" / "images"
    wanted = stf_jax.embed_tracklets(workdir, tmp_path / "frames")
    np.testing.assert_allclose(found.features, wanted.features, atol=1e-5)


def test_another_evaluation_leaves_the_runs_own_alone(
    workdir: Path, layout: Path, tmp_path: Path, capsys
) -> None:
    before = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    other = tmp_path / "other"
    shutil.copytree(layout, other)
    argv = ["--mode", "evaluate", "--workdir", str(workdir), "--no-report"]
    assert main([*argv, f"--config.data.root={other}"]) == 0
    folder = workdir / "evaluations" / "other-test-step0"
    assert f"on {other} (test):" in capsys.readouterr().out
    contents = json.loads((folder / "scores.json").read_text())
    assert contents["data"] == str(other)
    assert (contents["trained_on"]["data"], contents["scored_on"]["data"]) == (
        str(layout),
        str(other),
    )
    assert {path: path.read_bytes() for path in before} == before
    assert (workdir / "report" / "index.html").is_file()


def test_an_evaluation_centred_by_the_training_set(
    workdir: Path, layout: Path, tmp_path: Path, capsys
) -> None:
    """Its means are those of the training people's features; without them it is refused."""
    argv = ["--mode", "evaluate", "--workdir", str(workdir), "--no-report"]
    argv += ["--output", str(tmp_path / "scored"), "--config.evaluation.centring=training"]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {layout / 'partitions.pkl'}: no trainval_im_names")

    other = tmp_path / "other"
    shutil.copytree(layout, other)
    names = sorted(path.name for path in (layout / "images").iterdir())
    train, test = names[: 3 * 3 * LENGTH], names[3 * 3 * LENGTH :]
    marks = [int(name.split("_")[1].startswith("2")) for name in test]
    write_partitions(other, trainval=train, test=test, test_marks=marks)
    assert main([*argv, f"--config.data.root={other}"]) == 0
    (row,) = json.loads((tmp_path / "scored" / "scores.json").read_text())["rows"].values()
    found = load_layout(other)
    assert found.trainval is not None
    assert found.test is not None
    extractor = stf_jax.Extractor(workdir)
    seen = extractor.of_table(found.trainval)
    ranking = rank_table(
        extractor.of_table(found.test).features,
        found.test,
        ("step",),
        centring="training",
        means=camera_means(seen.features, seen.cameras),
    )["step"]
    assert row["options"]["centring"] == "training"
    assert row["scores"]["mAP"] == pytest.approx(ranking.mean_ap)


def test_weights_that_are_given_score_as_their_run(
    workdir: Path, features: FeatureSet, tmp_path: Path, capsys
) -> None:
    file, config = tmp_path / "run.safetensors", tmp_path / "config.py"
    assert weights_main(["convert", str(workdir), str(file)]) == 0
    assert weights_main(["inspect", str(workdir)]) == 0
    said = capsys.readouterr().out
    assert said.count("\nfc_list.0.") >= 2  # its head is in both
    config.write_text(
        "from stf_jax.run.run_files import run_config\n"
        f"def get_config(): return run_config({str(workdir)!r})\n"
    )
    wanted = json.loads((workdir / "scores.json").read_text())["rows"]
    sources = {"file": [str(file), "--config", str(config)], "run": [str(workdir)]}
    for name, source in sources.items():
        output = tmp_path / name
        argv = ["--mode", "evaluate", "--output", str(output), "--weights", *source]
        assert main(argv) == 0
        found = read_features(output / "features.npz")
        np.testing.assert_allclose(found.features, features.features, atol=1e-6)
        assert found.origin == features.origin
        contents = json.loads((output / "scores.json").read_text())
        assert contents["rows"]["step"]["scores"] == wanted["step"]["scores"]
        assert (contents["trained_on"] is None) == (name == "file")
    assert (
        f"{file}, on {features.image_dir.removesuffix('/images')} (test)"
        in (tmp_path / "file" / "report" / "index.html").read_text()
    )
    write_tensors(file, {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})
    argv = ["--mode", "evaluate", "--output", str(tmp_path / "x"), "--weights", *sources["file"]]
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}: 1 tensors used, for resnet18")


def test_an_extractor_takes_frames_in_every_form(
    workdir: Path, features: FeatureSet, tmp_path: Path
) -> None:
    extractor = stf_jax.Extractor(workdir)
    assert extractor.origin == features.origin
    names = [os.fsdecode(name) for name in features.names.tolist()]
    paths = [os.path.join(features.image_dir, name) for name in names]
    people = [
        paths[start:end]
        for start, end in zip(features.offsets[:-1], features.offsets[1:], strict=True)
    ]
    found = extractor.features(people)
    np.testing.assert_allclose(found, features.features, atol=1e-5)
    pixels = [np.stack([np.asarray(Image.open(path)) for path in group]) for group in people]
    np.testing.assert_allclose(extractor.features(pixels), found, atol=1e-6)
    np.testing.assert_allclose(extractor.feature(list(pixels[3])), found[3], atol=1e-5)
    one = extractor.feature(pixels[3][0])
    np.testing.assert_allclose(extractor.feature(Path(people[3][0])), one, atol=1e-6)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    same_features(extractor(Path(features.image_dir).parent), features)
    for wrong, said in (
        ([[]], "tracklet 0: no frames"),
        ([], "tracklets: none"),
        ([people[0], pixels[0].astype(np.float32)], "tracklet 1: a frame of float32"),
        ([np.zeros((4, 5), np.uint8)], "tracklet 0: a frame of uint8"),
        ([["none.png"]], "none.png: no such file"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            extractor.features(wrong)


def test_what_is_public_is_listed() -> None:
    public = {"Extractor", "embed_tracklets", "match_tracklets", "write_matches", "__version__"}
    public |= {"identify_tracklets", "write_identities"}
    assert public <= set(dir(stf_jax))
    assert public == set(stf_jax.__all__)


def test_match_command(workdir: Path, features: FeatureSet, tmp_path: Path, capsys) -> None:
    source = str(workdir / "features.npz")
    arguments = ["--workdir", str(workdir), "--query", source, "--gallery", source, "--top", "4"]
    output = tmp_path / "who"
    options = ["--query-camera", "2", "--gallery-camera", "1", "--calibrate", source]
    assert main(["--mode", "match", *arguments, *options, "--output", str(output)]) == 0
    with open(output / "matches.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * PEOPLE
    queries = features.features[features.cameras == 2]
    gallery = features.features[features.cameras == 1]
    distances = np.linalg.norm(queries[:, None] - gallery[None], axis=-1)
    for row in rows:
        q, place = int(row["query_row"]), int(row["place"])
        assert int(row["gallery_row"]) == np.argsort(distances[q])[place - 1]
        assert float(row["distance"]) == pytest.approx(np.sort(distances[q])[place - 1], abs=2e-3)
    assert rows[0]["query"] == "person 0, camera 2, track 1"
    chances = np.array([float(row["probability"]) for row in rows]).reshape(PEOPLE, 4)
    assert (np.diff(chances, axis=1) <= 0).all()
    page = (output / "index.html").read_text()
    assert "calibrated on" in page
    assert 'id="scores"' not in page
    assert 'id="outcome"' not in page

    more = ["--prior", "0.5", "--output", str(tmp_path / "more")]
    assert main(["--mode", "match", *arguments, *options, *more]) == 0
    with open(tmp_path / "more" / "matches.csv", newline="") as file:
        assert float(next(csv.DictReader(file))["probability"]) > chances[0, 0]
    wrong = [*arguments, "--query-camera", "9", "--output", str(output)]
    assert main(["--mode", "match", *wrong]) == 2
    assert "no tracklet of camera 9; there are cameras 1, 2" in capsys.readouterr().err


def test_match_command_refuses_features_of_another_origin(
    workdir: Path, features: FeatureSet, tmp_path: Path, capsys
) -> None:
    own, other = str(workdir / "features.npz"), str(tmp_path / "other.npz")
    flipped = dataclasses.replace(features.origin, flip=True)
    write_features(Path(other), dataclasses.replace(features, origin=flipped))
    arguments = ["--mode", "match", "--workdir", str(workdir), "--output", str(tmp_path / "who")]
    for query, gallery, calibrate in ((own, other, own), (other, own, other), (own, own, other)):
        sources = ["--query", query, "--gallery", gallery, "--calibrate", calibrate]
        assert main([*arguments, *sources]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: query: features of flip ")
    assert not (tmp_path / "who").exists()
    sources = ["--query", own, "--gallery", own, "--config.evaluation.distance=cosine"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *sources])
    assert caught.value.code == 2
    assert "--config.evaluation.distance=cosine has no effect" in capsys.readouterr().err


def test_nobody_is_matched_with_the_same_tracklet(features: FeatureSet) -> None:
    matches = stf_jax.match_tracklets(features, features, top=3 * PEOPLE, same_camera=True)
    assert matches.probabilities is None
    for row, entries in enumerate(matches.entries):
        assert sorted(entries) == [-1, *(r for r in range(3 * PEOPLE) if r != row)]


def test_a_tracklet_without_a_readable_image_matches_nothing(features: FeatureSet) -> None:
    blank = features.features.copy()
    blank[2] = 0
    some = dataclasses.replace(features, features=blank)
    matches = stf_jax.match_tracklets(features, some, top=features.num_tracklets, same_camera=True)
    assert 2 not in matches.entries
    matches = stf_jax.match_tracklets(some, features, top=features.num_tracklets, same_camera=True)
    assert (matches.entries[2] == -1).all()
    assert (np.delete(matches.entries, 2, axis=0)[:, 0] >= 0).all()


def test_folders_are_followed_and_what_systems_leave_is_not_a_tracklet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    for name in ("one/2.png", "one/10.JPG", "one/1.jpeg", "one/._1.jpeg", "two/1.heic"):
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(b"")
    for name in ("a/1.png", "a/@eaDir/1.png", "$RECYCLE.BIN/S/1.png", "a/.ipynb_checkpoints/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    for name in ("lost+found/1.png", "__MACOSX/a/._1.png", "a/Thumbs.db"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "linked").symlink_to(tmp_path / "there")
    table, titles = frame_folders(root)
    assert titles.tolist() == ["a", "linked/one"]
    assert [name.decode() for name in table.names] == [
        "a/1.png", *(f"linked/one/{name}" for name in ("1.jpeg", "2.png", "10.JPG")),
    ]  # fmt: skip
    assert "7 hidden files and leftovers of operating systems passed over" in caplog.text
    assert "1 pictures of formats that are not read are left out (e.g. 'linked/two/1.heic')" in (
        caplog.text
    )
    (tmp_path / "there" / "back").symlink_to(root)
    with pytest.raises(UserError, match="links to a folder that it is in"):
        frame_folders(root)


def test_frames_that_begin_with_a_number_stay_together(tmp_path: Path) -> None:
    order = ["a/cover.png", "a/0.png", "a/1.png", "a/2.png", "a/10.png"]
    (tmp_path / "a").mkdir()
    for name in reversed(order):
        (tmp_path / name).write_bytes(b"")
    table, _ = frame_folders(tmp_path)
    assert [name.decode() for name in table.names] == order


def test_a_source_that_is_not_there_does_not_wait_for_the_model(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "restore_run", None)
    with pytest.raises(UserError, match="no such folder"):
        stf_jax.embed_tracklets(workdir, tmp_path / "nowhere")


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a layout nor a folder of folders"):
        frame_folders(tmp_path)
    with pytest.raises(UserError, match="no run has begun"):
        stf_jax.embed_tracklets(tmp_path, tmp_path)


def test_embedding_nothing(workdir: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--mode", "embed", "--workdir", str(workdir)]
    output = ["--output", str(tmp_path / "a.npz")]
    assert main([*arguments, "--input", str(tmp_path / "no"), *output]) == 2
    assert "no such folder" in capsys.readouterr().err
    for wrong, said in (
        ([*output], "--mode embed needs --input"),
        (["--input", "x", "--output", "a.txt"], "ends in .npz"),
        (["--input", "x", *output, "--prior", "0.1"], "--prior needs --calibrate"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, *wrong])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


def test_features_round_trip_through_a_file(features: FeatureSet, tmp_path: Path) -> None:
    write_features(tmp_path / "a.npz", features)
    same_features(read_features(tmp_path / "a.npz"), features)


def test_importing_the_package_imports_no_framework() -> None:
    code = (
        "import sys, stf_jax; assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules);"
        "import stf_jax.match; assert 'tensorflow' not in sys.modules;"
        "assert callable(stf_jax.match_tracklets)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
