"""How a verdict looks: its word, a mark and a tone, so never a colour alone."""

from spectrank.report._numbers import DASH

NO_VERDICT = "no verdict"
"""Stands where a row has none."""

# In the order in which counts of them are listed.
_LOOKS = {
    "violated": ("✗", "bad"),
    "broken": ("✗", "bad"),
    "contradicted": ("✗", "bad"),
    "holds": ("✓", "good"),
    "conserved": ("✓", "good"),
    "reproduced": ("✓", "good"),
    "explained": ("≈", "good"),
    "inconclusive": ("?", "open"),
    "vacuous": ("○", "calm"),
    "not_applicable": (DASH, "calm"),
}


def verdict(name: str | None) -> dict[str, str]:
    """What the template needs to show a verdict.

    Args:
        name: Word of the Table's vocabulary, or any other, or None.

    Returns:
        ``name`` for people, ``mark`` and ``tone``; a word out of the vocabulary has
        the plainest mark and tone.
    """
    name = name or NO_VERDICT
    mark, tone = _LOOKS.get(name, ("·", "calm"))
    return {"name": name.replace("_", " "), "mark": mark, "tone": tone}


def place(name: str | None) -> tuple[int, str]:
    """Sort key of a verdict in a list of counts: what is wrong first.

    Args:
        name: As in `verdict`.

    Returns:
        Its place, the name itself among those out of the vocabulary.
    """
    name = name or NO_VERDICT
    known = list(_LOOKS)
    return (known.index(name) if name in known else len(known), name)
