"""The laws found are all laws there are: standard blocks, random nets, orbits."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from invariance_oracles import (
    ZOO,
    Case,
    Layout,
    brute_force,
    compare,
    law_vectors,
    quick_compare,
)
from invariance_oracles.case import features
from invariance_oracles.random_conv import conv_nets
from invariance_oracles.random_dense import dense_nets
from torch import nn
from torch.nn import functional

from spectrank.invariance import find
from spectrank.invariance.counting import count_laws


def found(case):
    model = case.module()
    inputs = case.inputs(torch.Generator().manual_seed(0))
    return find(model, inputs, loss="cross_entropy" if case.softmax else None)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_standard_blocks_have_the_laws_of_the_theory_and_no_others(name):
    # The count is that of brute force (tests/invariance/oracles), so laws that pass
    # the rate test and are as many span all there is.
    case = ZOO[name]
    result = quick_compare(case, found(case))
    assert result.right, str(result)


@pytest.mark.parametrize("name", ["residual free relu", "cnn batchnorm gelu"])
def test_the_span_is_that_of_brute_force(name):
    case = ZOO[name]
    result = compare(case, found(case))
    assert result.right, str(result)


def check_random(case):
    """All laws of one degree; of the mixed ones, those of x + W x, not of constants."""
    space, laws = brute_force(case), found(case)
    result = compare(case, laws, space=space.homogeneous())
    assert not result.wrong, str(result)
    assert not result.missing, str(result)
    mixed = any(law.offsets for law in laws)
    assert result.brute <= result.claimed <= (space.count if mixed else result.brute)


# No shrinking: it would take minutes, and the names of the cases are short.
PHASES = (Phase.explicit, Phase.generate)


@settings(derandomize=True, deadline=None, max_examples=5, phases=PHASES)
@given(dense_nets(most=24))
def test_random_nets_on_vectors_have_the_laws_of_brute_force(case):
    check_random(case)


@settings(derandomize=True, deadline=None, max_examples=3, phases=PHASES)
@given(conv_nets(most=22))
def test_random_nets_on_images_have_the_laws_of_brute_force(case):
    check_random(case)


class Bare(nn.Module):
    """The net of ``modules`` on bare parameters."""

    def __init__(self):
        super().__init__()
        for name, shape in (("A", (3, 2)), ("a", (3,)), ("B", (2, 3)), ("b", (2,))):
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        for name, shape in (("C", (2, 2)), ("c", (2,))):
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

    def forward(self, x):
        h = torch.relu(functional.linear(x, self.A, self.a))
        h = h @ self.B.T + self.b
        return functional.linear(h, self.C, self.c)


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def modules():
    return nn.Sequential(
        nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 2))
    )


def projector(build):
    """Projector on the span of the laws, over monomials in the order of parameters."""
    case = Case("net", build, features(2), 0)
    layout = Layout(case.module())
    rows = np.concatenate([law_vectors(law, layout) for law in found(case)])
    _, s, basis = np.linalg.svd(rows, full_matrices=False)
    basis = basis[s > 1e-9]
    return len(basis), basis.T @ basis


def test_modules_bare_parameters_and_wrappers_have_identical_laws():
    builds = (modules, Bare, lambda: Wrapped(Wrapped(modules())))
    counts, projectors = zip(*map(projector, builds), strict=True)
    # One law of each ReLU unit; of the two linear units the full matrix.
    assert counts == (6, 6, 6)
    for other in projectors[1:]:
        np.testing.assert_allclose(other, projectors[0], atol=1e-12)


@pytest.mark.parametrize("name", ["residual relu", "residual linear", "residual gelu"])
def test_no_law_stands_in_two_neighbouring_maps_across_an_identity_skip(name):
    case = ZOO[name]
    layout = Layout(case.module())
    laws = found(case)
    rows = np.concatenate([law_vectors(law, layout) for law in laws])
    allowed = {"U.0.weight", "U.0.bias", "Y.1.weight"}
    inside = np.zeros(layout.total, dtype=bool)
    for parameter in allowed:
        start = layout.offsets[parameter]
        inside[start : start + layout.sizes[parameter]] = True
    i, j = layout.upper
    outside = ~np.concatenate([inside[i] & inside[j], inside])
    # A combination that vanishes outside would lower the rank there.
    rank = np.linalg.matrix_rank
    assert rank(rows[:, outside]) == rank(rows)
    # The stream has its law: all writes against all reads.
    streams = [
        law for law in laws if {"U.0.weight", "Y.1.weight"} <= set(law.parameters)
    ]
    assert len(streams) == 1
    writes_and_reads = {"stem.weight", "stem.bias", "head.weight", "U.1.bias"}
    assert writes_and_reads <= set(streams[0].parameters)


@pytest.mark.parametrize("name", ["mlp linear", "mlp tanh", "residual gelu", "swiglu"])
def test_no_law_of_any_form_is_left_by_orbit_dimension(name):
    case = ZOO[name]
    model = case.module()
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(1)).double()
    count = count_laws(model, x, laws=found(case), num_draws=1)
    assert count.settled
    assert (count.num_laws, count.num_unknown) == (case.count, 0)
