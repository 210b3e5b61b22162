r"""The scale of a matrix: which norm is set, and to what.

    m, n       outputs and inputs of the matrix
    positions  kernel positions of a convolution, 1 else
    fan        n for fan_in, m * positions for fan_out, their mean for fan_avg

``frobenius``: ||W||_F^2 = gain^2 m n / fan, as if entries had variance gain^2 / fan.
With fan_in and gain sqrt 2 that is He, 2m; with gain 1 LeCun, m; with fan_avg and
gain 1 Glorot, 2mn/(m + n); with fan_out the backward signal is kept.
``spectral``: ||W||_2 = sigma; by default that of a large Gaussian matrix at that
variance, gain (sqrt m + sqrt n) / sqrt fan, for fan_in gain (1 + sqrt(m/n)); or
``depth-critical``, gain sqrt(m / r): the sigma at which the mean signal per neuron is
kept at this stable rank, E|h|^2/m = |x|^2/n through the activation that the gain
belongs to. It falls as 1/sqrt(r), and is what ``frobenius`` with fan_in sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, final, get_args

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.init.control.requests import check_positive
from spectrank.init.typical import typical_spectral_norm
from spectrank.linalg.ensembles.ensemble import Ensemble
from spectrank.linalg.ensembles.requests import check_choice
from spectrank.random_nets.activations import GAINS, activation_gain

Norm = Literal["frobenius", "spectral"]
Mode = Literal["fan_in", "fan_out", "fan_avg"]
DEPTH_CRITICAL = "depth-critical"
TYPICAL = {"typical": True, "typical-linear": False}
"""Gains that keep the mean logarithm, to whether relu follows."""


@final
@dataclass(frozen=True)
class Scale:
    """A checked request for a scale.

    Attributes:
        norm: Which norm is set.
        mode: What the variance is divided by.
        sigma: The spectral norm, ``depth-critical``, or None for its default.
    """

    norm: Norm
    mode: Mode
    sigma: float | Literal["depth-critical"] | None

    @property
    def uses_gain(self) -> bool:
        """Whether the gain of an activation enters."""
        return not isinstance(self.sigma, float)

    def spectral_norm(
        self, e: Ensemble, gain: float | str, *, positions: int = 1
    ) -> float:
        """Spectral norm of a draw.

        Args:
            e: The ensemble.
            gain: A number, or a name of ``TYPICAL``.
            positions: Kernel positions.

        Returns:
            The factor on a matrix whose largest singular value is one.
        """
        if isinstance(self.sigma, float):
            return self.sigma
        if isinstance(gain, str):
            return typical_spectral_norm(e, relu=TYPICAL[gain])
        if self.sigma == DEPTH_CRITICAL:
            return e.spectral_norm(gain * math.sqrt(e.m))
        fans = {"fan_in": e.n, "fan_out": e.m * positions}
        fan = fans.get(self.mode, sum(fans.values()) / 2.0)
        if self.norm == "spectral":
            return gain * (math.sqrt(e.m) + math.sqrt(e.n)) / math.sqrt(fan)
        return e.spectral_norm(gain * math.sqrt(e.m * e.n / fan))


def checked_scale(norm: str, mode: str, sigma: object) -> Scale:
    """Refuse a scale that does not exist.

    Args:
        norm: As asked.
        mode: As asked.
        sigma: As asked.

    Returns:
        The request.

    Raises:
        ArgumentTypeError: If sigma is no number.
        DomainError: If sigma is given with another norm or is not positive.
        UnknownNameError: If a name is none of the choices.
    """  # noqa: DOC502 - some are raised by the functions called
    check_choice("norm", norm, get_args(Norm))
    check_choice("mode", mode, get_args(Mode))
    if sigma is not None and norm != "spectral":
        raise DomainError(
            "sigma is the spectral norm that norm='spectral' holds, got "
            f"sigma={sigma!r} with norm={norm!r}; leave one of them out"
        )
    if isinstance(sigma, str):
        if sigma != DEPTH_CRITICAL:
            raise UnknownNameError(
                f"sigma is a positive number or {DEPTH_CRITICAL!r}, got {sigma!r}; "
                "leave it out for that of a large Gaussian matrix"
            )
        if mode != "fan_in":
            raise DomainError(
                "sigma='depth-critical' keeps the forward signal, got "
                f"mode={mode!r}; leave mode out, or give sigma as a number"
            )
        return Scale("spectral", "fan_in", "depth-critical")
    hint = "leave it out for that of a large Gaussian matrix"
    size = None if sigma is None else check_positive("sigma", sigma, hint)
    return Scale(norm, mode, size)  # type: ignore[arg-type]


def checked_gain(gain: object, scale: Scale, *, default: str) -> None:
    """Refuse a gain that does not exist or has no part in the scale.

    Args:
        gain: A number, an activation's name, a name of ``TYPICAL`` or the default.
        scale: The scale that it enters.
        default: What stands there if the caller gives none.

    Raises:
        ArgumentTypeError: If it is neither a number nor a name.
        DomainError: If it is not positive, or given beside a number for sigma, or
            ``typical`` where the mean is set.
        UnknownNameError: If there is no such activation.
    """
    if not isinstance(gain, str):
        if isinstance(gain, bool) or not isinstance(gain, Real):
            raise ArgumentTypeError(
                "gain is a positive number or the name of an activation, got "
                f"{gain!r}; e.g. gain='relu'"
            )
        check_positive("gain", gain, "1 keeps the signal of a linear layer")
    elif gain not in (known := dict.fromkeys([default, *GAINS, *TYPICAL])):
        raise UnknownNameError(
            f"gain is a number or one of {', '.join(known)}, got {gain!r}; a number "
            "takes any activation"
        )
    elif gain in TYPICAL and (scale.norm, scale.mode) != ("frobenius", "fan_in"):
        raise DomainError(
            f"gain={gain!r} sets the scale by the mean logarithm of the forward "
            f"signal, got norm={scale.norm!r}, mode={scale.mode!r}; leave both out"
        )
    if not scale.uses_gain and gain != default:
        raise DomainError(
            "gain scales the default of sigma, got both sigma="
            f"{scale.sigma!r} and gain={gain!r}; leave one of them out"
        )


def resolved_gain(gain: float | str) -> float | str:
    """The number of a gain; ``typical`` and ``typical-linear`` stay names.

    Args:
        gain: A checked gain.

    Returns:
        The number, or the name.
    """
    if isinstance(gain, str):
        return gain if gain in TYPICAL else activation_gain(gain)
    return float(gain)
