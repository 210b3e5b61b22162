"""Laws and certificates on images, with networks as modules and the finder's laws."""

from __future__ import annotations

from spectrank.experiments.images import Images
from spectrank.experiments.le2022training.images import training
from spectrank.experiments.papers import Mode, Part


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Args:
        mode: ``quick`` (bundled digits) or ``full`` (MNIST too, and more seeds).

    Returns:
        The parts.
    """
    digits = Images("digits", 300, 10, spatial=True)
    if mode == "quick":
        return (training.part(training.ImagesSize(digits, 3)),)
    mnist = Images("mnist", 2000, 10, spatial=True)
    return (
        training.part(training.ImagesSize(digits, 10)),
        training.part(training.ImagesSize(mnist, 5)),
    )
