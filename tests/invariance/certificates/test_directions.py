"""Directions of matrices with several outputs: certified never beyond the truth."""

import math

import pytest
import torch
from torch import nn

from spectrank.invariance.certificates import certify
from spectrank.model.graph import graph


def _normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _rows(table):
    return table.where(metric="subspace_alignment").frame.to_dicts()


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_directions_of_several_outputs_are_never_certified_beyond_the_truth(
    softmax, biases
):
    generator = torch.Generator().manual_seed(int(softmax) + 2 * int(biases))
    net = nn.Sequential(nn.Linear(5, 5, bias=biases), nn.Linear(5, 5, bias=biases))
    net.append(nn.Linear(5, 3, bias=False))
    found, r, certified = graph(net.double()), 2 if softmax else 3, 0
    for _ in range(30):
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(0.3 * _normal(generator, *p.shape) / p.shape[-1] ** 0.5)
        # Large directions, nearly but not quite aligned from layer to layer.
        u, v = (torch.linalg.qr(_normal(generator, 5, 3))[0] for _ in range(2))
        sizes = 10.0 + torch.rand(3, generator=generator, dtype=u.dtype)
        top = _normal(generator, 3, r)
        # A softmax sees differences of logits only: two directions of sum zero.
        top = torch.linalg.qr(top - top.mean(0) if softmax else top)[0]
        u, v, scale = u[:, :r], v[:, :r], torch.diag(sizes[:r])
        net[0].weight.data += u @ scale @ v.mT
        net[1].weight.data += v @ scale @ (u + 0.05 * _normal(generator, 5, r)).mT
        net[2].weight.data += top @ scale @ v.mT
        rows = _rows(certify(found, start=net, now=net, softmax=softmax))
        assert [(row["subject"], row["index"]) for row in rows] == [("0", r), ("1", r)]
        for row in rows:
            w = net.get_parameter(f"{row['subject']}.weight").detach()
            if biases:
                b = net.get_parameter(f"{row['subject']}.bias").detach()
                w = torch.cat([w, b[:, None]], 1)
            above = net.get_parameter(f"{int(row['subject']) + 1}.weight").detach()
            # Eigenvectors of both Gram matrices, and the angle of largest sine.
            span = torch.linalg.eigh(w @ w.mT)[1][:, -r:]
            other = torch.linalg.eigh(above.mT @ above)[1][:, -r:]
            sine = torch.linalg.matrix_norm(other - span @ (span.mT @ other), 2)
            cosine = math.sqrt(max(1 - float(sine) ** 2, 0.0))
            assert row["value"] == pytest.approx(cosine, abs=1e-9)
            assert row["value"] >= row["bound"] - 1e-10
            certified += row["bound"] > 0.5
    assert certified >= 10


def test_the_bound_on_directions_is_the_spread_of_the_gap_over_distance():
    """Small gaps between axes 1 and 3 and between 2 and 4, by hand."""
    exact, e, f = torch.float64, 1e-3, 2e-3
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    net = net.double()
    net[0].weight.data = torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=exact))
    net[1].weight.data = torch.tensor([[3, 0, 2 * e, 0], [0, 2, 0, 2 * f]], dtype=exact)
    (row,) = _rows(certify(net, start=net, now=net))
    # D = [[0, 6 e], [6 e, 4 e^2]] and [[0, 4 f], [4 f, 4 f^2]]: eigenvalues m +- r.
    means = 2 * e**2, 2 * f**2
    roots = math.hypot(2 * e**2, 6 * e), math.hypot(2 * f**2, 4 * f)
    excess = sum(roots) - sum(means)
    expected = 1 - 2 * sum(roots) / (4 - excess)
    assert row["bound"] ** 2 == pytest.approx(expected, rel=1e-9)
    assert row["value"] == pytest.approx(1 / math.hypot(1, f), rel=1e-12)
