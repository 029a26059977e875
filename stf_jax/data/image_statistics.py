"""Mean and deviation of image colours, by which the model's input is normalised."""

import numpy as np

# RGB, of 0..1: the reference's (its green mean is 0.459, not the 0.456 of most ImageNet code).
IMAGE_MEAN = (0.486, 0.459, 0.408)
IMAGE_STD = (0.229, 0.224, 0.225)


def fill_colour() -> tuple[int, int, int]:
    """The image mean in 8 bits, RGB."""
    red, green, blue = (int(level) for level in np.round(255 * np.array(IMAGE_MEAN)))
    return red, green, blue
