"""What stable_rank_ and adjust_ refuse, before a number is drawn or written."""

import math

import pytest
import torch

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.init import adjust_, stable_rank_

DEPTH = {"norm": "spectral", "sigma": "depth-critical"}
REQUESTS = [
    ({"stable_rank": 0.5}, DomainError, r"lie in \[1, 6\] for a 6 x 9.*got 0.5"),
    ({"stable_rank": 6.5}, DomainError, r"lie in \[1, 6\].*got 6.5"),
    ({"stable_rank": math.nan}, DomainError, "got nan"),
    ({"stable_rank": math.inf}, DomainError, "got inf"),
    ({"stable_rank": True}, ArgumentTypeError, "got True"),
    ({"stable_rank": "2"}, ArgumentTypeError, "got '2'"),
    ({"stable_rank": None}, DomainError, "stated once.*stable_rank=None"),
    ({"fraction": 0.5}, DomainError, "stated once.*stable_rank=2 and fraction=0.5"),
    ({"stable_rank": None, "fraction": 0.0}, DomainError, "got 0.0"),
    ({"stable_rank": None, "fraction": 1.5}, DomainError, "got 1.5"),
    ({"stable_rank": None, "fraction": math.nan}, DomainError, "got nan"),
    ({"stable_rank": None, "fraction": True}, ArgumentTypeError, "got True"),
    ({"stable_rank": 4.9}, DomainError, "mp-spike leaves room.*got 4.9; .*'temper'"),
    ({"spectrum": "flta"}, UnknownNameError, "mean 'flat'"),
    ({"spectrum": "gaussian"}, DomainError, "random stable rank.*got"),
    ({"spectrum": "orthogonal"}, DomainError, "^spectrum 'orthogonal' has.*rank=2; l"),
    ({"profile": [2.0, 1.0]}, DomainError, r"here 1.25, got stable_rank=2"),
    ({"spectrum": "flat", "profile": [1.0]}, DomainError, "spectrum='flat' too"),
    ({"stable_rank": None, "profile": [1.0, 2.0]}, DomainError, "descending"),
    ({"stable_rank": None, "profile": [1.0] * 7}, ShapeError, "1 to 6 singular"),
    ({"norm": "nuclear"}, UnknownNameError, "norm is one of frobenius, spectral"),
    ({"mode": "fan"}, UnknownNameError, "mode is one of fan_in"),
    ({"layout": "dirac"}, UnknownNameError, "layout is one of unfolded, delta"),
    ({"gain": "swoosh"}, UnknownNameError, "got 'swoosh'; a number takes any"),
    ({"gain": 0.0}, DomainError, "finite, got 0.0; 1 keeps"),
    ({"gain": math.nan}, DomainError, "gain must be positive and finite, got nan"),
    ({"gain": True}, ArgumentTypeError, "got True"),
    ({"gain": None}, ArgumentTypeError, "got None"),
    ({"gain": "auto"}, UnknownNameError, "got 'auto'"),
    ({"sigma": 1.0}, DomainError, "sigma=1.0 with norm='frobenius'"),
    ({"norm": "spectral", "sigma": -1.0}, DomainError, "-1.0; leave it out for"),
    (
        {"norm": "spectral", "sigma": "deep"},
        UnknownNameError,
        "sigma is a positive number or 'depth-cr",
    ),
    ({"norm": "spectral", "sigma": True}, ArgumentTypeError, "got True"),
    ({"norm": "spectral", "sigma": 1.0, "gain": 2.0}, DomainError, "and gain=2.0"),
    ({"norm": "spectral", "sigma": 1e-60}, DomainError, "spectral norm in torch.float"),
    ({**DEPTH, "mode": "fan_out"}, DomainError, "got mode='fan_out'"),
    ({"gain": "typical", "norm": "spectral"}, DomainError, "norm='spectral', mode="),
    ({"gain": "typical", "mode": "fan_avg"}, DomainError, "mode='fan_avg'; leave"),
    ({"layout": "delta"}, DomainError, r"kernel of odd sizes.*\(6, 9\)"),
    ({"groups": 2}, DomainError, r"groups=2 with shape \(6, 9\)"),
    ({"groups": 0}, DomainError, "groups must be at least 1, got 0"),
    ({"groups": 2.0}, ArgumentTypeError, r"groups is a whole number, got 2\.0"),
]


@pytest.mark.parametrize(("options", "kind", "message"), REQUESTS)
def test_bad_requests_leave_tensor_and_generator_alone(options, kind, message):
    W = torch.full((6, 9), 7.0)
    g = torch.Generator().manual_seed(3)
    state, version = g.get_state(), W._version
    with pytest.raises(kind, match=message):
        stable_rank_(W, **({"stable_rank": 2, "generator": g} | options))
    assert W._version == version
    assert bool((W == 7.0).all())
    assert torch.equal(g.get_state(), state)


@pytest.mark.parametrize("source", [3, "seed", torch.get_rng_state()])
def test_what_is_no_generator_is_refused(source):
    W = torch.full((6, 9), 7.0)
    with pytest.raises(ArgumentTypeError, match=r"torch\.Generator, got"):
        stable_rank_(W, 2, generator=source)
    assert bool((W == 7.0).all())


def inference_tensor():
    with torch.inference_mode():
        return torch.zeros(4, 4)


TENSORS = [
    (lambda: [[1.0]], ArgumentTypeError, "got list; pass the weight itself"),
    (lambda: torch.nn.Linear(3, 3), ArgumentTypeError, "got Linear"),
    (lambda: torch.empty(4, 4, device="meta"), DomainError, "meta device.*to_empty"),
    (lambda: torch.zeros(4, 4, dtype=torch.int32), ArgumentTypeError, "int32"),
    (lambda: torch.zeros(4, 4, dtype=torch.bool), ArgumentTypeError, "bool"),
    (lambda: torch.zeros(4, 4, dtype=torch.complex64), ArgumentTypeError, "complex64"),
    (lambda: torch.zeros(4, 4, dtype=torch.float8_e5m2), DomainError, "float8_e5m2"),
    (lambda: torch.zeros(4, 4).to_sparse(), DomainError, "sparse"),
    (
        lambda: torch.zeros(1, 4).expand(4, 4),
        DomainError,
        r"not so \(several of its.*expanded.*; fill a copy, tensor\.clone",
    ),
    (inference_tensor, DomainError, "inference mode"),
    (lambda: torch.zeros(()), ShapeError, r"got shape \(\)"),
    (lambda: torch.zeros(5), ShapeError, r"got shape \(5,\)"),
    (lambda: torch.zeros(2, 2, 1, 1, 1, 1), ShapeError, "one to three sizes"),
    (lambda: torch.zeros(0, 4), ShapeError, r"got shape \(0, 4\)"),
]


@pytest.mark.parametrize(("make", "kind", "message"), TENSORS)
def test_what_cannot_be_filled_is_refused(make, kind, message):
    tensor = make()
    g = torch.Generator().manual_seed(3)
    state = g.get_state()
    with pytest.raises(kind, match=message):
        stable_rank_(tensor, 1, generator=g)
    with pytest.raises(kind, match=message):
        adjust_(tensor, 1)
    assert torch.equal(g.get_state(), state)


def test_even_kernels_have_no_centre():
    with pytest.raises(DomainError, match=r"odd sizes.*\(4, 2, 2\)"):
        stable_rank_(torch.zeros(4, 2, 2), 1, layout="delta")


def test_a_refused_draw_leaves_the_tensor_alone():
    limit = 1 + 144 / 48
    refusals = {}
    for seed in range(40):
        W = torch.full((12, 12), 7.0)
        try:
            stable_rank_(W, limit, generator=torch.Generator().manual_seed(seed))
        except DomainError as error:
            refusals[seed] = str(error)
        assert bool((W == 7.0).all()) == (seed in refusals)
    assert 0 < len(refusals) < 40
    assert all("needs a bulk below its spike" in text for text in refusals.values())


def test_adjusting_writes_nothing_if_one_group_is_refused():
    kernel = torch.ones(4, 3, 1)
    kernel[:2] = torch.eye(3)[:2].unsqueeze(-1)
    before = kernel.clone()
    with pytest.raises(DomainError, match="rank, here 1, got 2"):
        adjust_(kernel, 2, groups=2)
    assert torch.equal(kernel, before)
