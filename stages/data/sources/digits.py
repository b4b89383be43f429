"""The built-in data set: scikit-learn's handwritten digits, 1,797 real images of 8x8 pixels.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from stages.data.sources.base import Source, SourceSplit

TEST_FRACTION = 0.2
_WHITE = 16  # of the set's grey levels 0..16


def open_digits() -> Source:
    """Open the splits ``train`` and ``test``: always the same 80 % and 20 %, stratified."""
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / _WHITE)).astype(np.uint8)
    # The set has no official test split. This one must not depend on data.seed, or runs with
    # different seeds would be tested on different images.
    train, test = train_test_split(
        np.arange(len(pixels)), test_size=TEST_FRACTION, stratify=digits.target, random_state=0
    )
    rows = {"train": np.sort(train), "test": np.sort(test)}

    def open_split(name: str) -> SourceSplit:
        chosen = rows[name]
        return SourceSplit(
            labels=digits.target[chosen].tolist(),
            image=lambda position: Image.fromarray(pixels[chosen[position]]),
            describe=lambda position: f"{name}[{position}]",
        )

    return Source(list(rows), open_split, [str(name) for name in digits.target_names])
