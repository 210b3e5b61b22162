"""One thread: the matrices here are too small for a second one to be of use."""

import pytest
import torch

from spectrank.train.fleet.threads import single_threaded


@pytest.fixture(autouse=True)
def one_thread():
    with single_threaded(torch.device("cpu")):
        yield
