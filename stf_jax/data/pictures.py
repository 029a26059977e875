"""Picture files read with Pillow, with the pixels that the input pipeline's decoder gives."""

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

MAX_PIXELS = 80_000_000  # larger ones are refused: a small file can ask for all memory
# What is read: for PostScript Pillow would run another program.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(Exception):
    """A picture that cannot be read right; its text is the reason, without the file's name."""


def read_picture(
    file: Path | io.BytesIO, *, upright: bool = False, enough: tuple[int, int] | None = None
) -> Image.Image:
    """Return the picture in mode RGB: alpha is dropped, 16 bits keep their upper 8.

    Args:
        file: of a format in `FORMATS`; the contents count, not the name.
        upright: turn it as its EXIF orientation says, as OpenCV and viewers do. Images of a layout
            are read as they are stored, which is what training does.
        enough: width and height; a larger JPEG may be decoded at a fraction down to these.

    Raises:
        PictureError: missing, damaged, too large, or of values whose range is unknown.
    """
    try:
        with Image.open(file) as image:
            if image.format not in FORMATS:
                raise PictureError(f"is {image.format}; expected one of {', '.join(FORMATS)}")
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(
                    f"{image.width}x{image.height} pixels; expected {MAX_PIXELS // 10**6} million "
                    "at most"
                )
            if enough is not None:
                image.draft("RGB", enough)
            image.load()  # which turns TIFF files, and takes their orientation off
            turn = _TURNS.get(orientation(image)) if upright else None
            found = _rgb(image)
            return found if turn is None else found.transpose(turn)
    except PictureError:
        raise
    except Exception as error:  # Pillow raises whatever the bytes lead it into
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise PictureError(f"{reason or type(error).__name__:.120}") from error


def for_training(contents: bytes) -> bytes:
    """Return a file that the input pipeline decodes, of the same picture, upright.

    An upright PNG or JPEG is returned as it is, and so is what Pillow cannot read; anything else
    becomes a PNG.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            if image.format in ("JPEG", "MPO", "PNG") and orientation(image) == 1:
                return contents
        return png_file(read_picture(io.BytesIO(contents), upright=True))
    except Exception:  # as above; the pipeline says what is wrong with it
        return contents


def png_file(picture: Image.Image) -> bytes:
    """Return a PNG file of the picture, lightly compressed: it is soon decoded again."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open picture: 1 to 8, 1 is upright."""
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in _TURNS else 1


def picture_format(contents: bytes) -> str:
    """Return the format by its contents, such as "WEBP"; "" where Pillow knows none."""
    try:
        with Image.open(io.BytesIO(contents)) as image:
            return image.format or ""
    except Exception:  # as above
        return ""


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        upper = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        low, high = float(values.min()), float(values.max())
        if image.mode == "F" and 0 <= low <= high <= 1:
            return Image.fromarray(np.round(255 * values).astype(np.uint8)).convert("RGB")
        kind = "32-bit" if image.mode == "I" else "floating-point"
        raise PictureError(
            f"{kind} values from {low:g} to {high:g}; expected 8 or 16 bits, or 0.0 to 1.0"
        )
    if "transparency" in image.info:  # or Pillow warns of what it leaves out
        image = image.convert("RGBA")
    return image.convert("RGB")
