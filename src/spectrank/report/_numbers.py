"""Numbers as a page prints them.

Two sorts of digits: four significant ones where a number stands alone, and, where it
has an interval, as many as the interval justifies. Ends of intervals are rounded
outward, so that the printed interval contains the computed one.
"""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

DASH = "\N{EN DASH}"
"""Stands where there is no number."""

_TIMES = "\N{MULTIPLICATION SIGN}"
_MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_DIGITS = 17


def count_text(count: float) -> str:
    """A count for a headline.

    Args:
        count: A count.

    Returns:
        The count with a unit: ``22.7 M``.
    """
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if count >= scale:
            unit, scale = ("k", 1e3) if unit == "k" else (unit, scale)
            return f"{count / scale:.3g} {unit}"
    return f"{count:g}"


def number_text(value: float) -> str:
    """A number with four significant digits.

    Args:
        value: A finite number.

    Returns:
        The digits, in exponent form when very large or small.
    """
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 3 - math.floor(math.log10(abs(value))) if value else 0
        return f"{value:.{max(digits, 0)}f}"
    return f"{value:.3e}"


def power_text(exponent: int) -> str:
    """A power of ten as in print, with the sign of multiplication before it.

    Args:
        exponent: The exponent.

    Returns:
        The text behind a mantissa.
    """
    return f"{_TIMES}10{str(exponent).translate(_SUPERSCRIPT)}"


def probability_text(chance: float) -> str:
    """A probability with at most two digits.

    Args:
        chance: A probability.

    Returns:
        Its digits, with a power of ten when it is small.
    """
    mantissa, *exponent = f"{chance:.2g}".split("e")
    return f"{mantissa}{power_text(int(exponent[0]))}" if exponent else mantissa


def _special(value: float | None) -> str | None:
    """Text of what is no finite number, None for a finite one."""
    if value is None:
        return DASH
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return None


def plain_text(value: float | None, digits: int = 4) -> str:
    """A stated number, such as a limit: no more digits than it needs.

    Args:
        value: Any number, or None.
        digits: Largest number of significant digits.

    Returns:
        The digits without trailing zeros; a dash for None.

    Example:
        >>> plain_text(1.0), plain_text(0.05), plain_text(12345.678)
        ('1', '0.05', '12350')
    """
    if value is None or not math.isfinite(value):
        return str(_special(value))
    whole = value == round(value) and abs(value) < 1e6
    text = f"{value + 0.0:.0f}" if whole else f"{value:.{digits}g}"
    mantissa, *exponent = text.split("e")
    if exponent and 0 <= int(exponent[0]) < 6:
        mantissa, exponent = f"{float(text):.0f}", []
    text = f"{mantissa}{power_text(int(exponent[0]))}" if exponent else mantissa
    return text.replace("-", _MINUS)


def _unit(value: float, lower: float | None, upper: float | None) -> int | None:
    """Exponent of the last digit worth printing: the second of the half-width."""
    sides = [
        abs(value - end)
        for end in (lower, upper)
        if end is not None and math.isfinite(end) and end != value
    ]
    if not sides or not math.isfinite(max(sides)):
        return None
    unit = math.floor(math.log10(max(sides))) - 1
    if value:
        unit = max(unit, math.floor(math.log10(abs(value))) - _MOST_DIGITS + 1)
    return unit


def _digits(value: float, unit: int, top: int, rounding: str) -> str:
    """A number rounded to a multiple of 10**unit; top is the leading exponent."""
    steps = Decimal(repr(value)).scaleb(-unit).to_integral_value(rounding)
    fixed = -3 <= top < 6
    shown = steps.scaleb(unit if fixed else unit - top)
    places = max(0, -unit if fixed else top - unit)
    text = f"{shown:.{places}f}".replace("-", _MINUS)
    zero = not steps
    return (text.lstrip(_MINUS) if zero else text) + (
        "" if fixed or zero else power_text(top)
    )


def _between(lower: str, upper: str) -> str:
    """An interval; an end at infinity or unknown is open."""
    open_ends = ("∞", DASH)
    left = "(" if lower.endswith(open_ends) else "["
    right = ")" if upper.endswith(open_ends) else "]"
    return f"{left}{lower}, {upper}{right}"


def interval_texts(
    value: float | None, lower: float | None, upper: float | None
) -> tuple[str, str | None]:
    """A number and its interval, with the digits that the interval justifies.

    The half-width keeps two digits. The lower end is rounded down, the upper one up.

    Args:
        value: The number, or None where nothing was measured.
        lower: Lower end, infinite or None where there is none.
        upper: Upper end, infinite or None where there is none.

    Returns:
        The number, and ``[lower, upper]`` or None when no end is known.

    Example:
        >>> interval_texts(0.98765, 0.9712, 1.00411)
        ('0.988', '[0.971, 1.005]')
        >>> interval_texts(2.0, None, None)
        ('2', None)
    """
    known = [end for end in (lower, upper) if end is not None and not math.isnan(end)]
    finite = value is not None and math.isfinite(value)
    unit = _unit(value, lower, upper) if value is not None and finite else None
    if value is None or unit is None:
        ends = _between(plain_text(lower), plain_text(upper)) if known else None
        return plain_text(value), ends
    largest = max(abs(x) for x in (value, *known) if math.isfinite(x))
    top = max(math.floor(math.log10(largest)), unit)

    def end(x: float | None, rounding: str) -> str:
        return _special(x) or _digits(float(x or 0.0), unit, top, rounding)

    return (
        end(value, ROUND_HALF_EVEN),
        _between(end(lower, ROUND_FLOOR), end(upper, ROUND_CEILING)),
    )


def level_text(failure_probability: float | None) -> str:
    """Confidence level of an interval.

    Args:
        failure_probability: One minus the level, None or no probability if unknown.

    Returns:
        ``95 %``, or that the level is not stated.
    """
    if failure_probability is None or not 0 <= failure_probability <= 1:
        return "level not stated"
    # 100 * (1 - 0.05) is 95.00000000000001 in binary.
    return f"{100 - 100 * failure_probability:.10g} %"
