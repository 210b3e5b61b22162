"""The registry: what a plug-in states, and what the registry refuses."""

from importlib.metadata import EntryPoint

import pytest
import torch

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.linalg import spectrum
from spectrank.metrics import get_metric, list_metrics, registry, stable_rank
from spectrank.metrics.registry import register, unregister
from spectrank.testing import check_metric

PROMISES = {
    "needs": ["sigma"],
    "formula": "s_k",
    "source": "a test",
    "range": lambda k: (0.0, float("inf")),
    "invariances": ["transpose", "orthogonal"],
    "on_zero": 0.0,
}


@pytest.fixture(autouse=True)
def _clean():
    before = list_metrics()
    yield
    for metric in list_metrics():
        if metric not in before:
            unregister(metric.name)


@pytest.mark.parametrize("metric", list_metrics(), ids=lambda m: m.name)
def test_every_metric_keeps_its_promises(metric):
    check_metric(metric)


def sum_of_squares(s):
    """Sum of squared singular values."""
    return s.frobenius**2


def broken(**changes):
    """Register `sum_of_squares` with one false promise."""
    return register(**{**PROMISES, **changes})(sum_of_squares)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"invariances": ["scale"]}, "not invariant under scale"),
        ({"range": lambda k: (0.0, 0.5)}, "leaves its range"),
        ({"on_zero": 1.0}, "promised 1.0 at zero"),
        ({"invariances": ["rotation"]}, "names"),
    ],
)
def test_the_conformance_suite_catches_a_false_promise(changes, match):
    metric = broken(**changes)
    with pytest.raises(AssertionError, match=match):
        check_metric(metric)


def test_a_metric_that_returns_a_bare_number_is_refused_by_name():
    def bare_number(s):
        """A number without an enclosure."""
        return 3.0

    metric = register(**PROMISES)(bare_number)
    with pytest.raises(ArgumentTypeError, match="bare_number returned float"):
        metric(torch.eye(3))


def test_the_conformance_suite_catches_a_value_outside_its_enclosure():
    def off(s):
        """A value beside its enclosure."""
        value = s.sigma_max
        return type(value)(value.value * 2, value.lower, value.upper)

    with pytest.raises(AssertionError, match="is not in"):
        check_metric(register(**PROMISES)(off))


def test_the_conformance_suite_catches_a_metric_that_changes_the_matrix():
    metric = broken()
    original = type(metric).__call__

    class Vandal(type(metric)):
        def __call__(self, s, **parameters):
            if isinstance(s, torch.Tensor) and s.shape == (12, 12):
                s[0, 0] += 1.0
            return original(self, s, **parameters)

    vandal = Vandal(**{f: getattr(metric, f) for f in metric.__dataclass_fields__})
    with pytest.raises(AssertionError, match="changed the matrix"):
        check_metric(vandal)


@pytest.mark.parametrize("part", ["formula", "source"])
def test_a_metric_without_formula_or_source_is_refused(part):
    with pytest.raises(DomainError, match=f"has no {part}"):
        broken(**{part: ""})


def test_a_metric_without_a_summary_is_refused():
    def bare(s):
        return s.sigma_max

    with pytest.raises(DomainError, match="has no summary"):
        register(**PROMISES)(bare)


def test_a_second_metric_of_one_name_is_refused():
    with pytest.raises(DomainError, match="'stable_rank' exists"):
        broken(name="stable_rank")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'stable_rank'"):
        get_metric("stabel_rank")
    with pytest.raises(UnknownNameError, match="spectrank metrics"):
        get_metric("zzz")


def test_a_spectrum_that_knows_too_little_is_refused_with_the_way_out():
    # Large enough that norms are the cheaper route.
    W = torch.randn(1200, 1200, generator=torch.Generator().manual_seed(0))
    norms = spectrum(W, ["frobenius", "sigma_max"])
    assert stable_rank(norms).status == "ok"
    with pytest.raises(DomainError, match=r"needs=\['sigma'\]\) or pass the matrix"):
        get_metric("nuclear_norm")(norms)
    with pytest.raises(DomainError, match="norms only"):
        get_metric("participation_ratio")(norms)


def test_plug_ins_are_loaded_from_their_entry_points(monkeypatch):
    class Point(EntryPoint):
        def load(self):
            return broken(name="from_a_plug_in")

    def entry_points(group):
        assert group == "spectrank.metrics"
        return [Point("x", "y:z", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry._load_plugins.cache_clear()
    assert get_metric("from_a_plug_in").formula == "s_k"
    monkeypatch.undo()
    registry._load_plugins.cache_clear()


def test_a_variant_names_the_options_and_nothing_else():
    assert get_metric("stable_rank").variant({}) is None
    assert get_metric("energy_rank").variant({"q": 0.9}) == "q=0.9"
    assert get_metric("energy_rank").variant({"q": 0.9999999}) == "q=0.9999999"
    assert get_metric("effective_rank").variant({"variant": "squared"}) == "squared"
    assert get_metric("effective_rank").variant({}) is None
