"""The handwritten digits bundled with scikit-learn: real data that need no file."""

from __future__ import annotations

import numpy as np
import torch

from spectrank.experiments.data.dataset import DataError, Dataset, tensor_digest
from spectrank.extras import need

DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""Of the 1797 x 64 pixels as bytes, then the labels as bytes, as bundled."""


def load_digits(split: str) -> Dataset:
    """Load the digits bundled with scikit-learn, split by us.

    In each class every fifth sample, in the order of the bundle, is for testing: 1442
    to train on and 355 to test on. The bundle does not name its writers, so the same
    hand may be in both splits.

    Args:
        split: ``train`` or ``test``.

    Returns:
        Inputs (N, 8, 8) uint8 from 0 to 16, scaled by 1/16.

    Raises:
        DataError: The bundle is not the one that results here were made with.
    """
    bundle = need("sklearn.datasets", "the data set 'digits'").load_digits()
    pixels = torch.from_numpy(bundle.images.astype(np.uint8))
    labels = torch.from_numpy(bundle.target.astype(np.int64))
    digest = tensor_digest(pixels, labels.to(torch.uint8))
    if digest != DIGITS_SHA256:
        raise DataError(
            f"the bundled digits have the SHA-256 {DIGITS_SHA256}, those of the "
            f"installed scikit-learn have {digest}; install another version"
        )
    order = torch.zeros_like(labels)
    for label in range(10):
        members = labels == label
        order[members] = torch.arange(int(members.sum()))
    chosen = (order % 5 == 4) == (split == "test")
    return Dataset(
        name="digits",
        split=split,
        inputs=pixels[chosen],
        labels=labels[chosen],
        classes=tuple("0123456789"),
        source="scikit-learn, load_digits: Alpaydin & Kaynak (1998), Optical "
        "Recognition of Handwritten Digits, UCI Machine Learning Repository",
        licence="CC BY 4.0",
        sha256={"images and labels": digest},
        scale=1.0 / 16.0,
        note="every fifth sample of each class is the test split",
    )
