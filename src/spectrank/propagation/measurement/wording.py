"""Reasons of errors raised elsewhere, with the ways out that ``measure`` has."""

from __future__ import annotations

import re

from spectrank.errors import SpectrankError


def told(error: SpectrankError) -> str:
    """The text of an error, without ways out that are options of other functions.

    Args:
        error: Of ``capture`` or ``graph``.

    Returns:
        What ``measure`` may say.
    """
    text = str(error)
    # Options of these names are options of measure too.
    text = re.sub(r"(pass (?:unpack|batch_axis)=\d*) to capture", r"\1", text)
    stated = r", or state the links as wiring=\[.*\]"
    return re.sub(stated, "", text, flags=re.DOTALL)
