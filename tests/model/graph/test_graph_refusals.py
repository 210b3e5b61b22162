"""Models that torch.export refuses for a known cause are told the way out."""

import pytest
import torch
from torch import nn

from spectrank.errors import DomainError
from spectrank.model.graph import graph

X = torch.zeros(3, 4)


def test_a_lazy_layer_is_to_see_a_batch_first() -> None:
    net = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 2))
    message = r"'0.weight' has no shape before the first batch; run one batch through"
    with pytest.raises(DomainError, match=message):
        graph(net, X)
    net(X)
    assert [node.op for node in graph(net, X).nodes][1:3] == ["linear", "relu"]


def test_statistics_averaged_by_a_count_are_to_be_given_a_momentum() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=None))
    with pytest.raises(DomainError, match=r"'1' averages .*set its momentum"):
        graph(net, X)
    net[1].momentum = 0.1
    assert [node.op for node in graph(net, X).nodes][1:3] == ["linear", "batch_norm"]


def test_a_model_of_several_processes_is_to_be_unwrapped(tmp_path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net = nn.parallel.DistributedDataParallel(nn.Linear(4, 2))
        with pytest.raises(DomainError, match=r"talks to other processes; .*\.module"):
            graph(net, X)
        assert graph(net.module, X).nodes[1].op == "linear"
    finally:
        torch.distributed.destroy_process_group()
