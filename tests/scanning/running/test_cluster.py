"""Tasks of a Ray cluster: the rows of one process, from a module and from a file."""

import socket

import pytest
import torch
from safetensors.torch import save_file

import spectrank as sr
from spectrank.errors import CheckpointError, DomainError
from spectrank.extras import MissingExtraError
from spectrank.scanning.measure import Settings
from spectrank.scanning.running.child import Reading
from spectrank.scanning.running.cluster import _join, run_on_ray
from spectrank.scanning.running.jobs import plan_jobs


def source():
    generator = torch.Generator().manual_seed(9)
    return {
        "a": torch.randn(140, 133, generator=generator),
        "b": torch.randn(133, 150, generator=generator).T,
        **{f"s{i}": torch.randn(9, 7, generator=generator) for i in range(4)},
    }


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="install the ray extra")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(address="local", num_cpus=1, include_dashboard=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("cluster", "one_thread")
def test_a_cluster_gives_the_bits_of_one_process(tmp_path):
    truth = sr.scan(source())
    path = tmp_path / "m.safetensors"
    save_file({k: W.contiguous() for k, W in source().items()}, path)
    assert sr.scan(source(), ray="auto").frame.equals(truth.frame)
    of_file = sr.scan(path, ray="auto", resume=tmp_path / "parts", memory=2_000_000)
    assert of_file.frame.equals(sr.scan(path).frame)
    # One part for each job: two large matrices and a batch.
    assert len(list((tmp_path / "parts").iterdir())) == 3


@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_was_there_stays(cluster):
    sr.scan({"w": torch.eye(3)}, ray="auto")
    assert cluster.is_initialized()


@pytest.mark.usefixtures("cluster")
def test_what_a_task_raises_is_raised_here(tmp_path):
    settings = Settings.of("stable_rank")
    jobs = plan_jobs(list(sr.model.iter_weights(source())), settings)
    route = run_on_ray(
        jobs,
        settings,
        address="auto",
        reading=Reading(str(tmp_path / "gone.safetensors"), {}),
        folder=None,
        memory=None,
        started=lambda job: None,
    )
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        list(route)


def test_without_the_package_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spectrank\[ray\]'"):
        sr.scan({"w": torch.eye(3)}, ray="local")


def test_a_cluster_has_its_own_workers():
    with pytest.raises(DomainError, match=r"got workers=2 with ray='local'; leave"):
        sr.scan({"w": torch.eye(3)}, ray="local", workers=2)


class FakeRay:
    """Joins what it is told to, or fails as Ray does."""

    def __init__(self, error=None):
        self.error = error
        self.joined = []

    def init(self, address, **_):
        self.joined.append(address)
        if self.error is not None:
            raise self.error


def test_an_address_where_nothing_answers_is_refused_without_asking_ray():
    # Bound and closed again: nobody listens there.
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        ray = FakeRay()
        with pytest.raises(DomainError, match=r"a cluster that answers.*ray start"):
            _join(ray, address)
        assert ray.joined == []
    with socket.create_server(("127.0.0.1", 0)) as server:
        ray, address = FakeRay(), f"127.0.0.1:{server.getsockname()[1]}"
        _join(ray, address)
        assert ray.joined == [address]


@pytest.mark.parametrize("error", [ConnectionError("none"), RuntimeError("version")])
def test_what_ray_says_of_an_address_is_in_the_message(error):
    for address in ("auto", "local"):
        with pytest.raises(DomainError, match=rf"got '{address}' \({error}\)"):
            _join(FakeRay(error), address)
