"""Laws and certificates on images, with networks as modules and the finder's laws."""

from __future__ import annotations

from spectrank.experiments.images import Images
from spectrank.experiments.le2022training.images import questions, tail_questions
from spectrank.experiments.le2022training.images.tails import CNN, TailSize
from spectrank.experiments.le2022training.images.training import ImagesSize
from spectrank.experiments.papers import Mode, Part


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Args:
        mode: ``quick`` (bundled digits) or ``full`` (MNIST too, and more seeds).

    Returns:
        The parts.
    """
    least, few, some = (Images("digits", n, 10, spatial=True) for n in (60, 100, 300))
    if mode == "quick":
        return (
            questions.part(ImagesSize(some, 3)),
            tail_questions.part(TailSize(few, 3)),
        )
    mnist, many = (Images("mnist", n, 10, spatial=True) for n in (100, 1000))
    return (
        questions.part(ImagesSize(some, 10)),
        questions.part(ImagesSize(many, 5)),
        tail_questions.part(TailSize(some, 10)),
        tail_questions.part(TailSize(least, 5, CNN)),
        tail_questions.part(TailSize(mnist, 5)),
    )
