r"""Random networks without biases whose layers have prescribed spectra.

    z_l = W_l h_{l-1},   h_l = phi(z_l) for l < L,   output z_L,   h_0 = x.

W_l is (n_l, n_{l-1}), bi-orthogonally invariant, independent of the other layers. The
laws are this library's own; those of Georgiev et al. (2021), arXiv:2110.02333, are not
public. Two scales: ``frobenius`` keeps the mean signal whatever the stable rank;
``spectral`` keeps the largest singular value, and the mean signal is linear in every
stable rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.ensembles.ensemble import Ensemble
from spectrank.linalg.ensembles.law import squared
from spectrank.linalg.ensembles.layer import LayerLaw, layer_law
from spectrank.linalg.ensembles.make import ensemble, shared_stable_ranks
from spectrank.linalg.ensembles.requests import check_choice, check_norm
from spectrank.linalg.haar import check_count
from spectrank.random_nets.activations import (
    LEAK,
    MODULES,
    Activation,
    activation_gain,
)

Norm = Literal["frobenius", "spectral"]
# E phi(z)^2 / E z^2 where that is the same for every symmetric law of z.
_MEAN_GAINS = MappingProxyType(
    {"relu": 0.5, "linear": 1.0, "leaky_relu": (1.0 + LEAK**2) / 2.0}
)


@final
@dataclass(frozen=True, repr=False)
class RandomMLP:
    """Random multilayer perceptron without biases, with prescribed stable ranks.

    Attributes:
        widths: n_0 (inputs) to n_L (outputs).
        stable_rank: One number, or one per layer. One number is lowered in every layer
            that cannot have it, to min(m, n), or for ``mp-spike`` to the largest value
            that its draws reliably reach; ``layers`` and ``repr`` tell. One that no
            layer can have is refused. A value per layer is taken as it is or refused.
            None for ``orthogonal`` and ``gaussian``.
        spectrum: One name, or one per layer.
        norm: ``frobenius``: ||W||_F^2 = gain^2 m. ``spectral``: ||W||_2 = sigma.
        sigma: Spectral norm, one number or one per layer; by default that of a
            Gaussian matrix with entries of variance gain^2 / n,
            gain (1 + sqrt(m / n)). Only for ``spectral``.
        gain: A number or ``auto``: sqrt 2 for relu, 1 for linear, 5/3 for tanh, as
            torch.nn.init.calculate_gain has it; for gelu and silu that of mean field
            (``activation_gain``).
        activation: After every layer but the last.

    Raises:
        ArgumentTypeError: If an argument is of another type.
        DomainError: If a layer cannot be drawn as asked.
        UnknownNameError: If there is no such spectrum, norm or activation.

    Example:
        >>> import torch
        >>> net = RandomMLP([8, 16, 4], stable_rank=6, spectrum="flat")
        >>> net
        RandomMLP(8-16-4, flat, stable_rank=6/4, norm='frobenius', relu)
        >>> net.sample(torch.Generator().manual_seed(0))
        Sequential(
          (0): Linear(in_features=8, out_features=16, bias=False)
          (1): ReLU()
          (2): Linear(in_features=16, out_features=4, bias=False)
        )
    """

    widths: Sequence[int]
    stable_rank: float | Sequence[float | None] | None = None
    spectrum: str | Sequence[str] = "mp-spike"
    norm: Norm = "frobenius"
    sigma: float | Sequence[float] | None = None
    gain: float | Literal["auto"] = "auto"
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", _widths(self.widths))
        for name in ("stable_rank", "spectrum", "sigma"):
            x = getattr(self, name)
            if isinstance(x, Sequence) and not isinstance(x, str):
                object.__setattr__(self, name, tuple(x))
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("activation", self.activation, get_args(Activation))
        if self.sigma is not None and self.norm != "spectral":
            raise DomainError(
                "sigma is the spectral norm that norm='spectral' holds, got "
                f"sigma={self.sigma!r} with norm={self.norm!r}; leave one of them out"
            )
        if self.sigma is not None and self.gain != "auto":
            raise DomainError(
                "gain scales the default of sigma, got both sigma="
                f"{self.sigma!r} and gain={self.gain!r}; leave one of them out"
            )
        # Refuse what cannot be drawn; the moments can wait.
        _ = self._ensembles, self._sizes

    def __repr__(self) -> str:
        spectra = _joined([e.spectrum for e in self._ensembles])
        ranks = _joined(
            [
                "random" if e.stable_rank is None else f"{e.stable_rank:.6g}"
                for e in self._ensembles
            ]
        )
        widths = "-".join(str(n) for n in self.widths)
        return (
            f"RandomMLP({widths}, {spectra}, stable_rank={ranks}, "
            f"norm={self.norm!r}, {self.activation})"
        )

    @property
    def num_layers(self) -> int:
        """Number of weight matrices."""
        return len(self.widths) - 1

    @cached_property
    def layers(self) -> tuple[LayerLaw, ...]:
        """The law of every layer, first to last, exact (see ``a2_stderr``)."""
        pairs = zip(self._ensembles, self._sizes, strict=True)
        return tuple(layer_law(e, size) for e, size in pairs)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the weights in the state dict of a sampled network."""
        step = 1 if self.activation == "linear" else 2
        return tuple(f"{step * i}.weight" for i in range(self.num_layers))

    def mean_signal(self) -> tuple[float, ...]:
        r"""Mean squared norms :math:`E|h_l|^2 / |x|^2`, l = 1..L, of any input x.

        :math:`\prod_{k \le l} g\, a_{1,k} / n_{k-1}` with g = 1/2 for relu and 1 for
        linear; the last is that of the output, :math:`E|z_L|^2 / |x|^2`, whose own
        factor has no g. With spectral norms, a1 = sigma^2 sr: linear in every stable
        rank. Exact at every width.
        Source (derived): tests/test_random_nets.py.

        Returns:
            One number per layer; inf or 0 where it leaves the range of float64.

        Raises:
            DomainError: If the mean depends on more than the mean before it.
        """
        if self.activation not in _MEAN_GAINS:
            raise DomainError(
                "the mean signal is exact for relu, leaky_relu and linear, got "
                f"{self.activation!r}; for others it is a matter of mean-field "
                "propagation, exact in the limit of infinite width"
            )
        g, signal = _MEAN_GAINS[self.activation], 1.0
        means: list[float] = []
        for e, size in zip(self._ensembles, self._sizes, strict=True):
            signal *= squared(size) * e.law.a1 / e.n
            means.append(signal * g if len(means) < self.num_layers - 1 else signal)
            signal *= g
        return tuple(means)

    def sample_weights(
        self,
        generator: torch.Generator,
        *,
        num: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> list[Tensor]:
        """Draw the weights of a network, first layer first.

        Args:
            generator: Source of randomness.
            num: Networks drawn at once; None for one without a leading axis.
            dtype: float64, float32, bfloat16 or float16.
            device: Where they live; None for the generator's device.

        Returns:
            One (m, n) or (num, m, n) tensor per layer; with ``parameter_names`` they
            are the stacked parameters of a fleet.

        Raises:
            DomainError: If a draw of ``mp-spike`` is refused.
        """  # noqa: DOC502 - raised by the ensembles
        return [
            e.sample(generator, spectral_norm=size, num=num, dtype=dtype, device=device)
            for e, size in zip(self._ensembles, self._sizes, strict=True)
        ]

    def sample(
        self,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> nn.Sequential:
        """Draw a network.

        Args:
            generator: Source of randomness; the global state is not touched.
            dtype: float64, float32, bfloat16 or float16.
            device: Where it lives; None for the generator's device.

        Returns:
            Linear modules without bias, the activation between them; in training mode,
            as every new module.
        """
        modules: list[nn.Module] = []
        for W in self.sample_weights(generator, dtype=dtype, device=device):
            if modules and self.activation != "linear":
                modules.append(MODULES[self.activation]())
            m, n = W.shape
            # On the meta device nothing is drawn by the module itself.
            linear = nn.Linear(n, m, bias=False, device="meta")
            linear.weight = nn.Parameter(W)
            modules.append(linear)
        return nn.Sequential(*modules)

    @cached_property
    def _ensembles(self) -> tuple[Ensemble, ...]:
        ranks = _per_layer("stable_rank", self.stable_rank, self.num_layers)
        spectra = _per_layer("spectrum", self.spectrum, self.num_layers)
        if not isinstance(self.stable_rank, tuple):
            ranks = shared_stable_ranks(self._pairs, self.stable_rank, spectra)
        layers = zip(self._pairs, ranks, spectra, strict=True)
        return tuple(
            ensemble(m, n, stable_rank=r, spectrum=spectrum)
            for (m, n), r, spectrum in layers
        )

    @cached_property
    def _sizes(self) -> tuple[float, ...]:
        if self.sigma is not None:
            sigmas = _per_layer("sigma", self.sigma, self.num_layers)
            return tuple(check_norm("sigma", x) for x in sigmas)
        gain = self._gain
        if self.norm == "spectral":
            return tuple(gain * (1.0 + math.sqrt(m / n)) for m, n in self._pairs)
        return tuple(e.spectral_norm(gain * math.sqrt(e.m)) for e in self._ensembles)

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        """(m, n) of every layer."""
        return list(zip(self.widths[1:], self.widths[:-1], strict=True))

    @property
    def _gain(self) -> float:
        if self.gain != "auto":
            return check_norm("gain", self.gain)
        return activation_gain(self.activation)


def _widths(widths: Any) -> tuple[int, ...]:
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise ArgumentTypeError(
            f"widths is a sequence of whole numbers, got {widths!r}; "
            "e.g. [784, 512, 10]"
        )
    if len(widths) < 2:
        raise DomainError(
            f"widths go from inputs to outputs, at least two, got {list(widths)}; "
            "e.g. [784, 10] for a single layer"
        )
    return tuple(check_count("a width", n) for n in widths)


def _per_layer(name: str, x: Any, num_layers: int) -> Sequence[Any]:
    if not isinstance(x, tuple):
        return [x] * num_layers
    if len(x) != num_layers:
        raise DomainError(
            f"{name} is one value or one per layer ({num_layers} here), "
            f"got {len(x)}; give one per weight matrix"
        )
    return x


def _joined(words: list[str]) -> str:
    return words[0] if len(set(words)) == 1 else "/".join(words)
