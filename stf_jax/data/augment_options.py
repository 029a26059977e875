"""The options of augmentation, their defaults (the reference's recipe for MARS) and their ranges.

| option | default | meaning |
|---|---|---|
| `mirror` | 0.5 | probability of mirroring a frame left to right |
| `blur` | 0.1 | probability of a Gaussian blur |
| `blur_kernels` | (1, 3) | kernel sizes, odd, as likely as each other; 1 is no blur |
| `blur_sigma` | 0.8 | pixels |
| `crop` | 0.0 | probability of a random crop: padded on all sides with the image mean, cut back |
| `crop_padding` | 0.1 | the padding of a side, as a share of the height or width |
| `hsv` | 0.0 | probability of colour jitter, offsets in 8-bit HSV, uniform in -limit..limit |
| `hsv_hue` | 10 | limit, 0..179, one is two degrees |
| `hsv_saturation` | 30 | limit, 0..255 |
| `hsv_value` | 30 | limit, 0..255 |
| `erase` | 0.0 | probability of filling a random rectangle with the image mean |
| `erase_area` | (0.02, 0.4) | its area as a share of the frame's, uniform |
| `erase_aspect` | (1.5, 4.0) | its height / width, uniform; a side beyond the frame's is cut |
| `horizontal_crop` | 0.0 | probability of keeping the top part only, of images with h/w > 1.5 |
| `horizontal_crop_keep` | (0.5, 1.0) | the share of the height that is kept, uniform |
| `pad_ratio` | 0.0 | h/w that images are padded to, evenly, with the image mean; 0: off, 3: usual |

A probability of 0 switches an augmentation off. Every frame is drawn for on its own. The image
mean is the colour that normalises to 0. The last three change what is resized and are done on the
host, where images are decoded (`stf_jax.data.pipeline`), the others on the device
(`stf_jax.data.augment`). The reference's limits of crop, colour jitter and horizontal crop are not
published with its recipe, which has them off: those defaults are ours.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from stf_jax.errors import UserError

# RGB, of 0..1: the reference's (its green mean is 0.459, not the 0.456 of most ImageNet code).
IMAGE_MEAN = (0.486, 0.459, 0.408)
IMAGE_STD = (0.229, 0.224, 0.225)

_PROBABILITY = (0.0, 1.0)
_DEFAULTS_AND_RANGES: dict[str, tuple[Any, tuple[float, float]]] = {
    "mirror": (0.5, _PROBABILITY),
    "blur": (0.1, _PROBABILITY),
    "blur_kernels": ((1, 3), (1, 31)),
    "blur_sigma": (0.8, (0.01, 100.0)),
    "crop": (0.0, _PROBABILITY),
    "crop_padding": (0.1, (0.0, 1.0)),
    "hsv": (0.0, _PROBABILITY),
    "hsv_hue": (10, (0, 179)),
    "hsv_saturation": (30, (0, 255)),
    "hsv_value": (30, (0, 255)),
    "erase": (0.0, _PROBABILITY),
    "erase_area": ((0.02, 0.4), (0.0, 1.0)),
    "erase_aspect": ((1.5, 4.0), (0.01, 100.0)),
    "horizontal_crop": (0.0, _PROBABILITY),
    "horizontal_crop_keep": ((0.5, 1.0), (0.05, 1.0)),
    "pad_ratio": (0.0, (0.0, 20.0)),
}
_WHOLE = ("blur_kernels", "hsv_hue", "hsv_saturation", "hsv_value")


def check_options(options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All options, those given (a dict, a ConfigDict) over the defaults of the table above.

    Raises:
        UserError: every unknown option and value out of its range, a line each.
    """
    given = {} if options is None else {name: options[name] for name in options}
    problems = [
        f"augment.{name}: no such option; there are {', '.join(_DEFAULTS_AND_RANGES)}"
        for name in given
        if name not in _DEFAULTS_AND_RANGES
    ]
    complete = {}
    for name, (default, limits) in _DEFAULTS_AND_RANGES.items():
        value = given.get(name, default)
        complete[name] = tuple(value) if isinstance(value, list | tuple) else value
        expected = _problem(name, value, default, limits)
        if expected:
            problems.append(f"augment.{name}: found {value!r}, expected {expected}")
    if problems:
        raise UserError("\n".join(problems))
    return complete


def _problem(name: str, value: Any, default: Any, limits: tuple[float, float]) -> str | None:
    """What was expected, if the value is not that."""
    kind = "whole numbers" if name in _WHOLE else "numbers"
    between = f"{kind} from {limits[0]} to {limits[1]}"
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not value:
            return f"a tuple of {between}"
        numbers = list(value)
    else:
        numbers = [value]
    types = int if name in _WHOLE else (int, float)
    if not all(isinstance(number, types) and not isinstance(number, bool) for number in numbers):
        return between
    if not all(limits[0] <= number <= limits[1] for number in numbers):
        return between
    if name == "blur_kernels":
        return None if all(number % 2 for number in numbers) else "odd numbers"
    if isinstance(default, tuple) and (len(numbers) != 2 or numbers[0] > numbers[1]):
        return f"two {between}, the lower one first"
    return None


def fill_colour() -> tuple[int, int, int]:
    """The image mean in 8 bits, RGB."""
    red, green, blue = (int(level) for level in np.round(255 * np.array(IMAGE_MEAN)))
    return red, green, blue
