"""Matrices built from the answer: a prescribed spectrum between Haar factors."""

import torch


def haar(n, generator):
    gaussian = torch.randn(n, n, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()


def with_spectrum(sigma, m, n, seed=0):
    """Return an (m, n) float64 matrix with the given singular values."""
    generator = torch.Generator().manual_seed(seed)
    k = min(m, n)
    left, right = haar(m, generator)[:, :k], haar(n, generator)[:, :k]
    return (left * torch.as_tensor(sigma, dtype=torch.float64)) @ right.T


def named_spectrum(name, k):
    """Return k descending singular values with the largest equal to one."""
    i = torch.arange(k, dtype=torch.float64)
    return {
        "flat": torch.ones(k, dtype=torch.float64),
        "clustered": torch.where(i < k // 4, 1.0 - 1e-9 * i, 0.3 + 0.0 * i),
        "graded": 10.0 ** (-8.0 * i / max(k - 1, 1)),
        "repeated": torch.where(i < k // 2, 1.0, 0.5).to(torch.float64),
        "gap-free": torch.linspace(1.0, 0.0, k, dtype=torch.float64),
        "quarter-circle": quarter_circle(k),
        "spike": torch.where(i == 0, 1.0, 0.1).to(torch.float64),
        "power": (i + 1.0) ** -0.5,
        "away from zero": torch.linspace(1.0, 0.5, k, dtype=torch.float64),
    }[name]


def quarter_circle(k):
    """Quantiles like those of a Gaussian square matrix: dense at the top end."""
    u = (torch.arange(k, dtype=torch.float64) + 0.5) / k
    return (1.0 - u.pow(2.0 / 3.0)).clamp_min(0.0).sqrt() / float(
        (1.0 - (0.5 / k) ** (2.0 / 3.0)) ** 0.5
    )


SPECTRA = (
    "flat",
    "clustered",
    "graded",
    "repeated",
    "gap-free",
    "quarter-circle",
    "spike",
    "power",
    "away from zero",
)
