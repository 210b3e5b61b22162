"""The claims, with relation and tolerance fixed before the full run.

Tolerances of log-log slopes are a tenth of the exponent that one layer contributes: a
signal that went with the square root or the square of a stable rank would be off by 0.5
or 1. Shares and ratios may be off by 0.1, the rate in depth by 0.05 a layer (5 %), its
curvature by 0.03.
"""

from __future__ import annotations

import math

from spectrank.experiments.claims import Claim

KEY = "georgiev2021stable"
ABSTRACT = (
    "Georgiev, Franken, Mukherjee & Arvanitidis (2021), On the Impact of Stable Ranks "
    "in Deep Nets, arXiv:2110.02333, abstract"
)
DERIVED = (
    "derived: E|Wx|^2 = |x|^2 ||W||_F^2 / n for bi-orthogonally invariant W; proved in "
    "tests/experiments/test_experiments_georgiev2021stable.py"
)
_OF_THE_ABSTRACT = "claim of the abstract; protocol ours"
_EXPONENT_OURS = "exponential in depth: claim of the abstract; rate and protocol ours"
_OURS = "ours"
_READING = (
    "that the spectral norms are what stays fixed is our reading, the abstract does "
    "not say"
)


def claim_key(name: str, data: str) -> str:
    """Return the key; bundled digits are the default and carry no suffix.

    Args:
        name: Dotted, within the paper.
        data: Name of the inputs' data set.

    Returns:
        The key.
    """
    return f"{KEY}.{name}" if data == "digits" else f"{KEY}.{name}.{data}"


def one_layer(layer: int, data: str, protocol: str) -> Claim:
    """Return the claim that one layer's stable rank is a linear factor.

    Args:
        layer: Which, from 1.
        data: Name of the inputs' data set.
        protocol: In words.

    Returns:
        The claim.
    """
    return Claim(
        key=claim_key(f"linear-in-stable-rank.layer-{layer}", data),
        statement=f"At fixed spectral norms the mean signal is linear in the stable "
        f"rank of layer {layer}: its log-log slope is 1.",
        whose=_OF_THE_ABSTRACT,
        protocol=f"{protocol}; {_READING}",
        quantity="log_log_slope",
        relation="equals",
        expected=1.0,
        tolerance=0.1,
        source=ABSTRACT,
    )


def no_offset(data: str, protocol: str) -> Claim:
    """Return the claim that the line goes through the origin.

    Args:
        data: Name of the inputs' data set.
        protocol: In words.

    Returns:
        The claim.
    """
    return Claim(
        key=claim_key("linear-in-stable-rank.no-offset", data),
        statement="The straight line of the mean signal against one layer's stable "
        "rank goes through the origin (mean over the layers).",
        whose=_OURS,
        protocol=protocol,
        quantity="intercept_share",
        relation="equals",
        expected=0.0,
        tolerance=0.1,
        source=DERIVED,
    )


def all_layers(num_layers: int, data: str, protocol: str) -> Claim:
    """Return the claim that the factors of all layers multiply.

    Args:
        num_layers: Number of weight matrices.
        data: Name of the inputs' data set.
        protocol: In words.

    Returns:
        The claim.
    """
    return Claim(
        key=claim_key("compounds-over-layers", data),
        statement=f"With one stable rank in all {num_layers} layers, at fixed spectral "
        f"norms, the mean signal goes with its power {num_layers}.",
        whose=_OF_THE_ABSTRACT,
        protocol=f"{protocol}; {_READING}",
        quantity="log_log_slope",
        relation="equals",
        expected=float(num_layers),
        tolerance=0.1 * num_layers,
        source=ABSTRACT,
    )


def depth_slope(stable_rank: float, factor: float, data: str, protocol: str) -> Claim:
    """Return the claim that the mean signal is exponential in depth.

    Args:
        stable_rank: Of every layer.
        factor: What one layer multiplies the mean signal by.
        data: Name of the inputs' data set.
        protocol: In words.

    Returns:
        The claim.
    """
    return Claim(
        key=claim_key(
            f"exponential-in-depth.{f'stable-rank-{stable_rank:g}'.replace('.', '-')}",
            data,
        ),
        statement="At fixed spectral norm and equal widths the mean signal is "
        f"multiplied by {factor:.4g} with each layer of stable rank {stable_rank:g}: "
        f"its log has slope {math.log(factor):.4g} in depth.",
        whose=_EXPONENT_OURS,
        protocol=f"{protocol}; {_READING}",
        quantity="log_mean_slope_in_depth",
        relation="equals",
        expected=math.log(factor),
        tolerance=0.05,
        source=DERIVED,
    )


def depth_straight(data: str, protocol: str) -> Claim:
    """Return the claim that the log of the mean signal does not bend with depth.

    Args:
        data: Name of the inputs' data set.
        protocol: In words.

    Returns:
        The claim.
    """
    return Claim(
        key=claim_key("exponential-in-depth.not-curved", data),
        statement="The log of the mean signal is straight in depth: its quadratic "
        "coefficient is 0 (mean over the stable ranks).",
        whose=_OF_THE_ABSTRACT,
        protocol=f"{protocol}; {_READING}",
        quantity="log_mean_curvature_in_depth",
        relation="equals",
        expected=0.0,
        tolerance=0.03,
        source=ABSTRACT,
    )


def spectrum(name: str, data: str, protocol: str) -> Claim:
    """Return the claim that the stable rank alone sets the mean.

    Args:
        name: Of the law of the singular values.
        data: Name of the inputs' data set.
        protocol: In words.

    Returns:
        The claim.
    """
    return Claim(
        key=claim_key(f"stable-rank-alone-sets-the-mean.{name}", data),
        statement=f"With spectrum {name!r} the mean signal is "
        "prod sigma_l^2 sr_l / (2 n_(l-1)), whatever else the spectrum does.",
        whose=_OURS,
        protocol=protocol,
        quantity="ratio_to_prediction",
        relation="equals",
        expected=1.0,
        tolerance=0.1,
        source=DERIVED,
    )


def frobenius(num_layers: int, data: str, protocol: str) -> Claim:
    """Return the negative control: a fixed Frobenius norm hides the stable rank.

    Args:
        num_layers: Number of weight matrices.
        data: Name of the inputs' data set.
        protocol: In words.

    Returns:
        The claim.
    """
    return Claim(
        key=claim_key("drops-out-at-fixed-frobenius-norm", data),
        statement="Control: with one stable rank in all layers, at fixed Frobenius "
        "norms, the mean signal does not depend on it: the log-log slope is 0.",
        whose=_OURS,
        protocol=protocol,
        quantity="log_log_slope",
        relation="equals",
        expected=0.0,
        tolerance=0.1 * num_layers,
        source=DERIVED,
    )
