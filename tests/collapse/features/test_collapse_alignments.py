"""The six alignments from samples, and where they are exactly one."""

import pytest
import torch
from tolerances import FLOAT64

from spectrank.collapse.features import ALIGNMENTS, canonical_alignments
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.moments import CrossMoments


def collected(delta, z, labels=None, precision="float64"):
    classes = None if labels is None else int(labels.max()) + 1
    cross = CrossMoments(
        classes,
        delta.shape[1],
        z.shape[1],
        scatter_out="full",
        scatter_in="full",
        precision=precision,
    )
    cross.update(delta, z, labels)
    return cross.compute()


def cosine(a, b):
    return float((a * b).sum() / a.norm() / b.norm())


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_layer_of_a_network_has_the_cosines_of_its_samples(seed, precision):
    g = torch.Generator().manual_seed(seed)
    n, dims = 60, (5, 4, 3)
    x = torch.randn(n, dims[0], dtype=torch.float64, generator=g) + 1.0
    y = torch.randint(3, (n,), generator=g)
    first, w, last = (
        torch.randn(b, a, dtype=torch.float64, generator=g)
        for a, b in zip(dims, (4, 3, 3), strict=True)
    )
    bias = torch.randn(3, dtype=torch.float64, generator=g)
    # Both ends of the layer as leaves of autograd.
    h_a = torch.tanh(x @ first.mT).requires_grad_()
    h_b = h_a @ w.mT
    out = torch.tanh(h_b + bias) @ last.mT
    loss = torch.nn.functional.cross_entropy(out, y, reduction="sum")
    g_a, g_b = torch.autograd.grad(loss, (h_a, h_b))
    h_a, h_b = h_a.detach(), h_b.detach()
    second = {
        k: v.mT @ v / n for k, v in {"ha": h_a, "hb": h_b, "ga": g_a, "gb": g_b}.items()
    }
    truth = {
        "rga_forward": cosine(second["hb"], second["gb"]),
        "gwa_forward": cosine(second["gb"], w @ w.mT),
        "rwa_forward": cosine(second["hb"], w @ w.mT),
        "rga_backward": cosine(second["ha"], second["ga"]),
        "gwa_backward": cosine(second["ga"], w.mT @ w),
        "rwa_backward": cosine(second["ha"], w.mT @ w),
    }
    found = canonical_alignments(collected(g_b, h_a, y, precision), w)
    assert tuple(found) == ALIGNMENTS
    loose = FLOAT64 if precision == "float64" else 1e-6
    for name, value in found.items():
        assert value.value == pytest.approx(truth[name], rel=loose)
        assert value.lower <= truth[name] <= value.upper


def test_aligned_layers_read_one_and_unrelated_identities_too():
    g = torch.Generator().manual_seed(4)
    w = torch.randn(3, 3, dtype=torch.float64, generator=g)
    eye = torch.eye(3, dtype=torch.float64)
    rows = torch.cat([eye, -eye])
    # White gradients and features: the moments of outputs and weight agree.
    found = canonical_alignments(collected(rows, rows), w)
    for name in ("rwa_forward", "gwa_backward"):
        assert found[name].value == pytest.approx(1.0, abs=FLOAT64)
        assert found[name].upper <= 1.0
    # cos(I, A) = tr A / (sqrt(3) |A|), far from 0 though nothing is aligned.
    a = w @ w.mT
    plain = float(a.trace() / 3**0.5 / a.norm())
    assert found["gwa_forward"].value == pytest.approx(plain, rel=FLOAT64)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_scale_of_any_factor_does_not_matter(scale):
    g = torch.Generator().manual_seed(2)
    delta = torch.randn(20, 3, dtype=torch.float64, generator=g)
    z = torch.randn(20, 4, dtype=torch.float64, generator=g)
    w = torch.randn(3, 4, dtype=torch.float64, generator=g)
    before = canonical_alignments(collected(delta, z), w)
    for moved in (
        canonical_alignments(collected(delta * scale, z), w),
        canonical_alignments(collected(delta, z * scale), w),
        canonical_alignments(collected(delta, z), w * scale),
    ):
        for name in ALIGNMENTS:
            assert moved[name].value == pytest.approx(before[name].value, rel=FLOAT64)


def test_zero_matrices_and_missing_scatters_are_said():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    delta = torch.ones(6, 3) * torch.arange(6.0)[:, None]
    dead = canonical_alignments(collected(delta, z), torch.zeros(3, 4))
    assert dead["rga_backward"].status == "degenerate"
    nan = canonical_alignments(collected(delta * torch.nan, z), torch.ones(3, 4))
    assert {v.status for v in nan.values()} == {"nonfinite"}
    cross = CrossMoments(None, 3, 4, scatter_in="full")
    cross.update(delta, z)
    with pytest.raises(DomainError, match=r"both sides, got 'full' and 'trace'"):
        canonical_alignments(cross.compute(), torch.ones(3, 4))
    with pytest.raises(ShapeError, match=r"must have shape \(3, 4\), got \(4, 3\)"):
        canonical_alignments(collected(delta, z), torch.ones(4, 3))
