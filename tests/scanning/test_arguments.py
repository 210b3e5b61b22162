"""Arguments of a wrong type: one message of three parts, before anything is read."""

import pytest
import torch
from torch import nn

import spectrank as sr
from spectrank.errors import (
    ArgumentTypeError,
    CheckpointError,
    DomainError,
    UnknownNameError,
)
from spectrank.scanning.patterns import check_types
from spectrank.scanning.requests import parse_metrics

STATE = {"w": torch.eye(3), "v": torch.ones(2, 4)}


class Unread(dict):
    """A source that may not be looked at, and says so."""

    def items(self):
        raise AssertionError("it was read")

    keys = values = __iter__ = __getitem__ = items


class UnreadModel(nn.Linear):
    """A model that may not be looked at, and says so."""

    def named_modules(self, *_, **__):
        raise AssertionError("it was read")

    parameters = named_parameters = named_modules


def scan(**options):
    return sr.scan(Unread(), **options)


def compare(**options):
    return sr.compare(Unread(), Unread(), **options)


def scan_steps(**options):
    return sr.scan_steps({0: Unread()}, **options)


# Option, wrong value, rule, what is named as got, way out.
WRONG = [
    ("metrics", [3], "metrics are names or Metric objects", "3 of type int"),
    ("metrics", ["stable_rank", None], "metrics are names", "None of type NoneType"),
    ("metrics", b"stable_rank", "metrics are names", "b'stable_rank' of type bytes"),
    ("metrics", torch.tensor(2), "metrics are names", r"tensor\(2\) of type Tensor"),
    ("metrics", torch.ones(2), "metrics are names", r"tensor\(.* of type Tensor"),
    ("metrics", 2.5, "metrics are names", "2.5 of type float"),
    ("select", ["w", 3], "select is a pattern or a list of them", "3 of type int"),
    ("select", b"w", "select is a pattern", "b'w' of type bytes"),
    ("select", {"w"}, "select is a pattern", "{'w'} of type set"),
    ("views", {3: "linear"}, "views maps patterns to views", "3 of type int"),
    ("views", {"w": None}, "views maps patterns to views", "None of type NoneType"),
    ("views", ["w"], "views maps patterns to views", r"\['w'\] of type list"),
    ("progress", 3, "progress is a function", "3; leave it out"),
]
OF_SCAN = [
    ("resume", 3, "resume is a path", "3 of type int; e.g. 'finished'"),
    ("resume", b"x", "resume is a path", "b'x' of type bytes"),
    ("ray", 3, "ray is text", "3 of type int; e.g. ray='local'"),
    ("device", 3.5, "device is text", "3.5 of type float; e.g. device='cuda'"),
    ("device", [], "device is text", r"\[\] of type list"),
    ("spectra", "no", "spectra is True or False", "'no'; leave it out"),
]


@pytest.mark.parametrize("use", [scan, compare, scan_steps])
@pytest.mark.parametrize(("option", "wrong", "rule", "got"), WRONG)
def test_a_wrong_type_is_refused_unread(use, option, wrong, rule, got):
    with pytest.raises(ArgumentTypeError, match=f"^{rule}.*, got {got}") as told:
        use(**{option: wrong})
    assert ";" in str(told.value)


@pytest.mark.parametrize("use", [scan, scan_steps])
@pytest.mark.parametrize(("option", "wrong", "rule", "got"), OF_SCAN)
def test_a_wrong_type_of_a_scan_is_refused_unread(use, option, wrong, rule, got):
    with pytest.raises(ArgumentTypeError, match=f"^{rule}.*, got {got}"):
        use(**{option: wrong})


@pytest.mark.parametrize("use", [scan, scan_steps])
@pytest.mark.parametrize(
    ("option", "word"), [("compat", "weightwatcher"), ("null", "permuted")]
)
def test_a_list_is_no_word_of_a_choice(use, option, word):
    with pytest.raises(UnknownNameError, match=rf"{option} is None or .*\['{word}'\]"):
        use(**{option: [word]})


@pytest.mark.parametrize("use", [scan, compare, scan_steps])
def test_a_list_is_no_way_to_certify(use):
    with pytest.raises(UnknownNameError, match=r"'deterministic', got \['prob.*; the"):
        use(certify=["probabilistic"])


@pytest.mark.parametrize("use", [scan, compare, scan_steps])
def test_an_empty_list_of_patterns_is_refused_as_one_of_metrics_is(use):
    with pytest.raises(DomainError, match=r"select has at least one pattern, .* out"):
        use(select=[])
    with pytest.raises(DomainError, match="computes at least one metric, got an empty"):
        use(metrics=[])


def test_a_device_without_numbers_is_refused():
    with pytest.raises(DomainError, match=r"torch can use here, got 'meta'.*'cpu'"):
        scan(device="meta")
    with pytest.raises(DomainError, match="torch can use here, got 'nonsense'"):
        scan(device="nonsense")
    table = sr.scan(STATE, device=torch.device("cpu"), metrics="frobenius_norm")
    assert table.value("v", "frobenius_norm") == pytest.approx(8**0.5)


@pytest.mark.parametrize(
    ("rename", "got"), [({3: "w"}, "3 of"), ({"w": 4}, "4 of"), (["w"], r"\['w'\] of")]
)
def test_a_renaming_maps_text_to_text(rename, got):
    with pytest.raises(ArgumentTypeError, match=f"rename maps names .* got {got} type"):
        compare(rename=rename)


def test_what_is_right_passes_whatever_holds_it():
    names = ["stable_rank", "energy_rank:q=0.9"]
    for metrics in (names, tuple(names), iter(names), dict.fromkeys(names)):
        assert [request.text for request in parse_metrics(metrics)] == names
    check_types(("a", "b"), {"a": "linear"})
    check_types("a", "linear")
    check_types(None, {})


@pytest.mark.parametrize("source", [3, None, ["a"], b"a"])
def test_a_run_is_a_path_or_a_mapping(source):
    with pytest.raises(ArgumentTypeError, match=r"the folder of a run is a path, got"):
        sr.scan_steps(source)


def test_a_folder_that_cannot_be_is_no_run(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for folder in (tmp_path / "loop", tmp_path / "absent", "a" * 300):
        with pytest.raises(CheckpointError, match=r"lie in a folder, got .*use `scan`"):
            sr.scan_steps(folder)
    with pytest.raises(DomainError, match="null bytes"):
        sr.scan_steps("a\0b")


def test_the_expression_of_steps_is_text_for_names(tmp_path):
    for source in (tmp_path, {0: STATE}):
        with pytest.raises(
            ArgumentTypeError, match=r"regular expression, got 3 of .*\("
        ):
            sr.scan_steps(source, steps=3)
    with pytest.raises(DomainError, match=r"steps reads the names of files, .*leave"):
        sr.scan_steps({0: Unread()}, steps=r"(\d+)")


def test_an_option_of_another_name_is_refused_unread():
    with pytest.raises(
        ArgumentTypeError, match=r"options of a scan are .* got 'metric'; .*'metrics'\?"
    ):
        scan_steps(metric="stable_rank")
    with pytest.raises(ArgumentTypeError, match="got 'zzz'; leave it out"):
        scan_steps(zzz=1)
    # An option that a scan has reaches it.
    options = {"metrics": "frobenius_norm", "select": "w", "workers": 1, "seed": 2}
    table = sr.scan_steps({0: STATE}, **options, spectra=False, views={"w": "linear"})
    assert table.value("w", "frobenius_norm") == pytest.approx(3**0.5)
    assert table.provenance["settings"]["seed"] == 2


def test_metrics_that_can_be_gone_through_once_reach_every_checkpoint():
    table = sr.scan_steps({0: STATE, 1: STATE}, metrics=iter(["stable_rank"]))
    found = table.where(metric="stable_rank", subject="w")
    assert found.frame["value"].to_list() == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize(
    ("option", "wrong", "told"),
    [
        ("metrics", [3], "metrics are names .*got 3 of type int"),
        ("select", "q", "options of scan_features are .*'select'; .*'layers'\\?"),
        ("batch_axes", 0, "scan_features .*got 'batch_axes'; .*'batch_axis'\\?"),
        ("gradients", "loss", "scan_features are .*, got 'gradients'; "),
        ("centred", "no", "centred is True or False, got 'no'; leave"),
        ("spectra", None, "spectra is True or False, got None; leave"),
        ("memory", "2GB", "memory is a number of bytes, got '2GB'; e.g."),
        ("memory", None, "memory is a number of bytes, got None; e.g."),
        ("dtype", "float32", "dtype is one of torch, got 'float32'; e.g."),
        ("unpack", 3, "unpack is a function, got 3; leave"),
        ("forward", "f", "forward is a function, got 'f'; leave"),
    ],
)
def test_a_wrong_argument_of_features_is_refused_unread(option, wrong, told):
    with pytest.raises(ArgumentTypeError, match=told):
        sr.scan_features(UnreadModel(2, 2), [torch.ones(2, 2)], **{option: wrong})


@pytest.mark.parametrize("layers", [3, [3], [nn.Linear, None]])
def test_layers_are_names_or_classes(layers):
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(
        ArgumentTypeError, match=r"layers must hold names.*; pass names"
    ):
        sr.scan_features(model, [torch.ones(2, 2)], layers=layers)


@pytest.mark.parametrize("device", ["nonsense", 3.5])
def test_features_are_taken_on_a_device_of_torch(device):
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(DomainError, match=r"device names one that torch .*; leave it"):
        sr.scan_features(model, [torch.ones(2, 2)], device=device)
