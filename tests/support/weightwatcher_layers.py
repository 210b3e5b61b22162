"""Dense layers that try WeightWatcher's conventions, by NumPy's frozen generator."""

import numpy as np
import torch


def synthetic_layers():
    """Return name -> float32 weight (m, n)."""
    random = np.random.RandomState(0)

    def gaussian(m, n):
        return random.standard_normal((m, n))

    layers = {
        "noise": gaussian(120, 80),
        "square": gaussian(64, 64) / 8.0,
        "wide": gaussian(30, 200) / 5.0,
        "heavy": random.standard_t(2.5, (150, 90)) / 10.0,
        "low-rank": gaussian(100, 40) @ gaussian(40, 70) / 20.0,
        "spiked": gaussian(90, 60) + 5.0 * np.outer(gaussian(90, 1), gaussian(60, 1)),
        "graded": gaussian(60, 50) * np.logspace(0.0, -5.0, 50),
        "small": gaussian(15, 40),
        "smallest": gaussian(9, 9),
        "weak": 1e-3 * gaussian(40, 30),
        "dead": gaussian(50, 40) * (np.arange(40) < 30),
        "too-weak": 1e-5 * gaussian(40, 30),
    }
    return {name: torch.from_numpy(W).float() for name, W in layers.items()}
