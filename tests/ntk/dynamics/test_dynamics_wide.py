"""Predicted curves beside the real training of wide networks.

NTK parametrisation, so that one learning rate serves every width.
"""

import math

import torch
from ntk_models import brute_force
from torch import nn

from spectrank.ntk.analysis import velocity
from spectrank.ntk.dynamics import gradient_flow

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(num, seed=5):
    return torch.randn(num, 3, dtype=F64, generator=generator(seed))


class Wide(nn.Module):
    """Two hidden layers, f = W3 phi(W2 phi(W1 x) / sqrt n) / sqrt n."""

    def __init__(self, width, seed):
        super().__init__()
        g = generator(seed)
        shapes = (width, 3), (width, width), (1, width)
        self.weights = nn.ParameterList(
            torch.randn(s, dtype=F64, generator=g) for s in shapes
        )

    def forward(self, x):
        h = x
        for i, W in enumerate(self.weights):
            h = h @ W.T / math.sqrt(W.shape[1])
            h = torch.tanh(h) if i < 2 else h
        return h


def trained_beside_prediction(width, seed, steps=60):
    """Largest error of predicted outputs over training, and the kernel's distance."""
    model, x = Wide(width, seed), points(5)
    y = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5], dtype=F64)[:, None]
    K0, rate = brute_force(model, x), 1.0
    flow = gradient_flow(
        K0, y, list(range(steps + 1)), initial=model(x), learning_rate=rate
    )
    worst = 0.0
    for k in range(steps + 1):
        outputs = model(x)
        worst = max(worst, float((outputs - flow.outputs[k]).detach().abs().max()))
        loss = nn.functional.mse_loss(outputs, y)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p.sub_(rate * g)
    moved_by = velocity(K0, brute_force(model, x), elapsed=steps)
    assert float(flow.losses[-1]) < 0.3 * float(flow.losses[0])
    return worst, moved_by.value("kernel", "relative_change")


def test_the_error_of_the_prediction_falls_with_the_width():
    widths, seeds = (32, 128, 512), (1, 2, 3)
    logs = torch.tensor(
        [[trained_beside_prediction(w, s) for s in seeds] for w in widths]
    ).log()
    mean = logs.mean(1)
    x = torch.tensor(widths, dtype=torch.float64).log()
    for i, what in enumerate(("outputs", "kernel")):
        slopes = [
            float(((x - x.mean()) * (logs[:, s, i] - logs[:, s, i].mean())).sum())
            / float((x - x.mean()).square().sum())
            for s in range(len(seeds))
        ]
        slope = sum(slopes) / len(slopes)
        # At least like n^(-1/2), the proved rate; 1/n is what is seen.
        assert slope < -0.5, (what, slopes)
        assert float(mean[2, i]) < float(mean[1, i]) < float(mean[0, i])
    # The stated closeness at width 512, outputs of size one.
    assert float(logs[2, :, 0].exp().max()) < 0.1
