"""Pillow reads what training's decoder reads, and gives its pixels; frames are turned upright."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stf_jax.data.pictures import (
    MAX_PIXELS,
    PictureError,
    for_training,
    picture_format,
    read_picture,
)
from stf_jax.data.pipeline import decode, tf, undecodable
from stf_jax.errors import UserError
from stf_jax.evaluation.pages.film_strips import read_frame
from stf_jax.prepare.checking.images import check_images
from stf_jax.prepare.tracks.video import open_video, read_frames


def scene(height=48, width=32):
    """Smooth, so that JPEG's chroma matters little; every corner has a colour of its own."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red, green, blue = 255 * y / height, 255 * x / width, 255 * (y + x) / (height + width)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def decoded(contents):
    return decode(tf.constant(contents)).numpy()


def in_mode(mode):
    colours = Image.fromarray(scene())
    if mode == "I;16":
        return Image.fromarray(scene()[..., 0].astype(np.uint16) * 256 + 77)
    if mode in ("LA", "RGBA", "PA"):
        image = colours.convert({"PA": "P"}.get(mode, mode[:-1]))
        alpha = Image.fromarray(scene()[..., 1])
        if mode == "PA":
            image.info["transparency"] = bytes(range(256))
            return image
        image = image.convert(mode)
        image.putalpha(alpha)
        return image
    return colours.convert(mode)


def encoded(image, kind, turn=1, **options):
    exif = Image.Exif()
    if turn != 1:
        exif[0x0112] = turn
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **options)
    return file.getvalue()


MODES = [("JPEG", mode) for mode in ("L", "RGB", "CMYK")]
MODES += [("PNG", mode) for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16")]


@pytest.mark.parametrize(("kind", "mode"), MODES)
@pytest.mark.parametrize("turn", [1, 3, 6])
def test_training_and_pillow_give_the_same_pixels(kind, mode, turn):
    contents = encoded(in_mode(mode), kind, turn)
    ours = np.asarray(read_picture(io.BytesIO(contents))).astype(int)
    theirs = decoded(contents).astype(int)
    assert ours.shape == theirs.shape == (48, 32, 3)
    assert abs(ours - theirs).max() <= 2
    if mode not in ("1", "P", "PA"):
        channels = [0] if mode in ("L", "LA", "I;16") else [0, 1, 2]
        grey = np.asarray(Image.fromarray(scene()).convert("L"))[..., None]
        wanted = {"L": grey, "LA": grey}.get(mode, scene()[..., channels])
        assert abs(ours - wanted).mean() < 3


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": 2}, {"quality": 30}, {"icc_profile": b"x"}]
)
def test_jpegs_of_every_kind_agree(options):
    contents = encoded(Image.fromarray(scene()), "JPEG", **options)
    ours = np.asarray(read_picture(io.BytesIO(contents))).astype(int)
    assert abs(ours - decoded(contents)).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_frames_are_turned_as_their_exif_says(tmp_path, kind, turn):
    upright = scene()
    # What a camera stores so that the turn makes it upright again.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[turn]
    contents = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, turn)
    path = tmp_path / f"000001.{kind.lower()}"
    path.write_bytes(contents)
    video = open_video(tmp_path)
    ((_, found),) = read_frames(video, np.arange(1))
    assert found is not None
    assert (video.height, video.width) == found.shape[:2] == (48, 32)
    assert abs(found.astype(int) - upright).mean() < 4
    trained = decoded(for_training(contents)).astype(int)
    np.testing.assert_array_equal(trained, found)
    assert (for_training(contents) == contents) == (turn == 1 and kind in ("JPEG", "PNG"))
    np.testing.assert_array_equal(read_frame(path, 32, 48), found)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_frames_of_16_bits_and_of_floats_are_scaled(tmp_path, kind):
    grey = scene()[..., 0]
    image = Image.fromarray(grey.astype(np.uint16) * 256 + 5)
    if kind == "TIFF":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    image.save(tmp_path / f"1.{kind.lower()}")
    ((_, found),) = read_frames(open_video(tmp_path), np.arange(1))
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, -1))


def test_values_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.array([[0.0, 300.0]], np.float32)).save(tmp_path / "1.tif")
    with pytest.raises(UserError, match=r"1\.tif: .*floating-point values from 0 to 300"):
        open_video(tmp_path)
    Image.fromarray(np.array([[0, 1 << 20]], np.int32)).save(tmp_path / "1.tif")
    with pytest.raises(UserError, match=r"32-bit values from 0 to 1\.04858e"):
        open_video(tmp_path)


def png(width, height, data=b"\0" * 1000):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def test_pictures_that_would_fill_the_memory_are_refused(tmp_path):
    jpeg = bytearray(encoded(Image.fromarray(scene()), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65000, 65000)
    for k, contents in enumerate((png(60000, 60000), bytes(jpeg))):
        assert undecodable(contents) == f"does not decode (more than {MAX_PIXELS} pixels)"
        path = tmp_path / f"{k}.png"
        path.write_bytes(contents)
        with pytest.raises(PictureError, match=r"pixels; expected 80 million|decompression bomb"):
            read_picture(path)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_named_not_decoded(kind):
    contents = encoded(Image.fromarray(scene()), kind) if kind != "GIF" else None
    if contents is None:
        file = io.BytesIO()
        Image.fromarray(scene()).save(file, kind)
        contents = file.getvalue()
    assert undecodable(contents) == f"is {kind}, not JPEG or PNG"
    assert picture_format(contents) == kind
    found = np.asarray(read_picture(io.BytesIO(contents)))
    np.testing.assert_allclose(found, scene(), atol=40)


def test_verify_calls_broken_what_training_cannot_read_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    jpeg, whole_png = (encoded(Image.fromarray(scene()), kind) for kind in ("JPEG", "PNG"))
    thumbnail = encoded(Image.fromarray(scene(8, 8)), "JPEG")
    files = {
        "whole.jpg": jpeg,
        "bytes_after_the_end.jpg": jpeg + b"\xff\xda" + bytes(40),
        "a_thumbnail_after.jpg": jpeg + thumbnail,
        "zeros_after.png": whole_png + bytes(100),
        "png_named.jpg": whole_png,
        "header_only.png": whole_png[:33],
    }
    for k, (contents, cut) in enumerate(itertools.product((jpeg, whole_png), (0.3, 0.9, 0.99))):
        files[f"cut{k}.jpg"] = contents[: int(len(contents) * cut)]
    for k in range(40):
        damaged = bytearray((jpeg, whole_png)[k % 2])
        damaged[int(rng.integers(2, len(damaged)))] ^= int(rng.integers(1, 256))
        files[f"bit{k}.jpg"] = bytes(damaged)
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
    for check in check_images(tmp_path, sorted(files), threads=2):
        try:
            decoded(files[check.name])
            good = True
        except tf.errors.OpError:
            good = False
        assert (check.problem == "") is good, check
    assert undecodable(files["bytes_after_the_end.jpg"]) == ""


def test_mpo_of_a_phone_is_a_jpeg(tmp_path):
    file = io.BytesIO()
    frames = [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    (tmp_path / "phone.jpg").write_bytes(file.getvalue())
    (check,) = check_images(tmp_path, ["phone.jpg"])
    assert (check.problem, check.kind, check.size) == ("", "MPO RGB", (48, 32))
    ours = np.asarray(read_picture(tmp_path / "phone.jpg")).astype(int)
    assert abs(ours - decoded(file.getvalue())).max() <= 2


def test_what_is_not_there_or_damaged_says_why(tmp_path):
    with pytest.raises(PictureError, match="No such file"):
        read_picture(Path(tmp_path / "none.png"))
    (tmp_path / "cut.png").write_bytes(png(8, 8, b"")[:50])
    with pytest.raises(PictureError):
        read_picture(tmp_path / "cut.png")
