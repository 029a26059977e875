"""Videos and folders of frames: every frame, in order, upright, or a clear refusal."""

import wave

import av
import numpy as np
import pytest
from PIL import Image

from stf_jax.errors import UserError
from stf_jax.prepare.tracks.video import open_video, read_frames


def frames_of(count, height=16, width=32):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, height, width, 3), np.uint8)


def write_video(path, frames, codec="ffv1", pixels="bgr0"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def write_folder(folder, frames, name="{:06d}.png", start=1):
    folder.mkdir()
    for number, frame in enumerate(frames, start):
        Image.fromarray(frame).save(folder / name.format(number))


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_wanted_frames_are_exact(tmp_path, kind):
    frames = frames_of(12)
    path = tmp_path / "x.mkv"
    if kind == "video":
        write_video(path, frames)
    else:
        write_folder(path, frames, name="cam3_{}.png", start=0)  # cam3_10 after cam3_9
    video = open_video(path)
    assert (video.width, video.height) == (32, 16)
    read = list(read_frames(video, np.array([2, 3, 10])))
    assert [number for number, _ in read] == list(range(11))
    for number, pixels in read:
        if number in (2, 3, 10):
            np.testing.assert_array_equal(pixels, frames[number])
        else:
            assert pixels is None
    assert list(read_frames(video, np.array([], int))) == []


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_ends_where_the_video_ends(tmp_path, kind):
    path = tmp_path / "x.mkv"
    (write_video if kind == "video" else write_folder)(path, frames_of(4))
    assert [n for n, _ in read_frames(open_video(path), np.array([1, 9]))] == [0, 1, 2, 3]


# ISO 14496-12: (x, y) goes to (a x + c y, b x + d y), y downwards; matrix a b 0 c d 0 ...
@pytest.mark.parametrize(
    ("matrix", "bright"),
    [
        ((0, 1, -1, 0), np.s_[:16, :]),  # a quarter turn clockwise: left becomes top
        ((0, -1, 1, 0), np.s_[16:, :]),
        ((-1, 0, 0, -1), np.s_[:, 16:]),
    ],
    ids=["clockwise", "counterclockwise", "half"],
)
def test_turned_videos_are_read_upright(tmp_path, matrix, bright):
    frames = np.zeros((3, 16, 32, 3), np.uint8)
    frames[:, :, :16] = 255
    path = tmp_path / "phone.mp4"
    write_video(path, frames, codec="mpeg4", pixels="yuv420p")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in matrix)
    numbers = np.array([a, b, 0, c, d, 0, 0, 0, 0x40000000], ">i4").tobytes()
    data[start : start + 36] = numbers
    path.write_bytes(data)
    video = open_video(path)
    pixels = dict(read_frames(video, np.array([1])))[1]
    assert pixels is not None
    assert pixels.shape[:2] == (video.height, video.width)
    expected = np.zeros(pixels.shape[:2], bool)
    expected[bright] = True
    np.testing.assert_array_equal(pixels.mean(axis=2) > 128, expected)


def test_folders_by_their_numbers(tmp_path):
    write_folder(tmp_path / "late", frames_of(3), name="f{}.jpg", start=9)
    video = open_video(tmp_path / "late")
    assert [path.name for path in video.pictures] == ["f9.jpg", "f10.jpg", "f11.jpg"]
    assert video.first_number == 9


def refused(path):
    with pytest.raises(UserError) as caught:
        open_video(path)
    return str(caught.value)


def test_refused(tmp_path):
    assert "no such video" in refused(tmp_path / "absent.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    assert f"{text}: cannot be decoded after 0 frames" in refused(text)
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    assert "no video stream" in refused(sound)
    (tmp_path / "empty").mkdir()
    assert "no pictures in it" in refused(tmp_path / "empty")

    write_folder(tmp_path / "hole", frames_of(4))
    (tmp_path / "hole" / "000003.png").unlink()
    assert "frame 3 is missing" in refused(tmp_path / "hole")
    (tmp_path / "hole" / "000003.png").write_bytes(b"no picture")
    assert "000003.png: not a readable picture" in refused_frame(tmp_path / "hole", 2)

    write_folder(tmp_path / "twice", frames_of(2))
    Image.fromarray(frames_of(1)[0]).save(tmp_path / "twice" / "2.png")
    assert "the same frame number" in refused(tmp_path / "twice")

    write_folder(tmp_path / "sizes", frames_of(2))
    Image.fromarray(frames_of(1, 8, 8)[0]).save(tmp_path / "sizes" / "3.png")
    assert "is 8x8, the first frame 32x16" in refused_frame(tmp_path / "sizes", 2)

    write_folder(tmp_path / "nameless", frames_of(1), name="frame.png")
    assert "no frame number" in refused(tmp_path / "nameless")


def refused_frame(path, number):
    with pytest.raises(UserError) as caught:
        list(read_frames(open_video(path), np.array([number])))
    return str(caught.value)
