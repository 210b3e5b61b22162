"""The monitor of spectral updates: right numbers, and a run that it does not touch."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.init.control import SpectralUpdateMonitor
from spectrank.train import ParquetSink

# Lanczos enclosures of the spectral norm of activations, twice in its square.
ENCLOSURE = 2e-4


def model_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(2, 4, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(16, 9),
        nn.Tanh(),
        nn.utils.parametrizations.weight_norm(nn.Linear(9, 9)),
        nn.Linear(9, 3),
    ).double()


def batch(k, num=12):
    g = torch.Generator().manual_seed(k)
    x = torch.randn(num, 2, 6, dtype=torch.float64, generator=g)
    return x, torch.randint(0, 3, (num,), generator=g)


def train(model, num_steps, *, optimizer=None, monitor=None, start=0):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for k in range(start, start + num_steps):
        x, y = batch(k)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if monitor is not None:
            monitor.note(loss)
        optimizer.step()
    return optimizer


def ranks(G, A):
    s, t = torch.linalg.svdvals(G), torch.linalg.svdvals(A)
    return [float(s.sum() ** 2 / s.square().sum()), float((t / t[0]).square().sum())]


def read(table, subject, step):
    return [
        table.where(subject=subject, metric=metric, step=step).frame["value"].item()
        for metric in ("gradient_nuclear_rank_squared", "activation_stable_rank")
    ]


class Probe(nn.Module):
    """Keeps a copy of what passes; no hook, so that it is no code of the monitor."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def forward(self, x):
        self.kept.append(x.detach().clone())
        return x


def probed():
    torch.manual_seed(0)
    return nn.Sequential(
        Probe(), nn.Linear(6, 9), nn.ReLU(), Probe(), nn.Linear(9, 3)
    ).double()


def simple_batch(k, num=12):
    g = torch.Generator().manual_seed(k)
    x = torch.randn(num, 6, dtype=torch.float64, generator=g)
    return x, torch.randint(0, 3, (num,), generator=g)


def expected(model):
    return {
        f"{k + 1}.weight": ranks(model[k + 1].weight.grad, torch.cat(model[k].kept))
        for k in (0, 3)
    }


def test_rows_are_those_of_dense_svds_of_each_read_step():
    model = probed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    monitor = SpectralUpdateMonitor(model, every=2, run="a")
    with monitor.attach(optimizer):
        for step in range(1, 7):
            model[0].kept, model[3].kept = [], []
            x, y = simple_batch(step)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            monitor.note(loss)
            optimizer.step()
            if step % 2:
                continue
            for name, want in expected(model).items():
                got = read(monitor.table(), name, step)
                assert got == pytest.approx(want, rel=ENCLOSURE)
            row = monitor.table().where(
                metric="spectral_update_ratio", subject="1.weight", step=step
            )
            nuclear, stable = expected(model)["1.weight"]
            row = row.frame.row(0, named=True)
            assert row["value"] == pytest.approx(nuclear / stable, rel=ENCLOSURE)
            assert row["loss"] == pytest.approx(float(loss.detach()))
            assert row["run"] == "a"
            word = "spectral" if nuclear >= stable else "euclidean"
            assert row["favoured"] == word
    assert set(monitor.table().frame["step"]) == {2, 4, 6}


def test_accumulated_batches_are_one_matrix_and_evaluations_are_no_part_of_it():
    model = probed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = SpectralUpdateMonitor(model, every=1)
    with monitor:
        optimizer.zero_grad()
        for k in (1, 2):
            x, y = simple_batch(k)
            nn.functional.cross_entropy(model(x), y).backward()
        kept = [list(model[k].kept) for k in (0, 3)]
        with torch.no_grad():
            model(simple_batch(3)[0])
        # With a graph, but without a backward pass.
        model(simple_batch(4)[0])
        model[0].kept, model[3].kept = kept
        want = expected(model)
        optimizer.step()
        monitor.observe(optimizer, 0.5)
    for name, pair in want.items():
        assert read(monitor.table(), name, 1) == pytest.approx(pair, rel=ENCLOSURE)
    rows = monitor.table().where(subject="1.weight", step=1).frame
    assert set(rows["num_rows"]) == {24}


class Checkpointed(nn.Module):
    def __init__(self, layer, *, wrapped):
        super().__init__()
        self.layer, self.wrapped = layer, wrapped

    def forward(self, x):
        if not self.wrapped:
            return self.layer(x)
        return checkpoint(self.layer, x, use_reentrant=False)


def test_a_recomputation_is_no_second_use():
    counts = []
    for wrapped in (False, True):
        torch.manual_seed(0)
        model = Checkpointed(nn.Linear(6, 3).double(), wrapped=wrapped)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = SpectralUpdateMonitor(model, every=1)
        with monitor.attach(optimizer):
            x, y = simple_batch(0)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        counts.append(monitor.table().frame["num_rows"].to_list())
    assert counts[0] == counts[1] == [12, 12, 12]


@pytest.mark.parametrize("way", ["attach", "observe"])
def test_twenty_steps_are_bit_identical_with_and_without_a_monitor(way):
    outcomes = []
    for watched in (False, True):
        model = model_of()
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        monitor = SpectralUpdateMonitor(model, every=3)
        if not watched:
            train(model, 20, optimizer=optimizer)
        elif way == "attach":
            with monitor.attach(optimizer):
                train(model, 20, optimizer=optimizer, monitor=monitor)
        else:
            with monitor:
                for k in range(20):
                    train(model, 1, optimizer=optimizer, start=k)
                    monitor.observe(optimizer)
        if watched:
            steps = set(monitor.table().where(kind="measurement").frame["step"])
            assert steps == {3, 6, 9, 12, 15, 18}
        grads = [p.grad for p in model.parameters()]
        outcomes.append([*model.state_dict().values(), *grads, torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def nothing_left(model, optimizer):
    hooks = [m._forward_hooks for m in model.modules()]
    hooks += [m._forward_pre_hooks for m in model.modules()]
    return not any(hooks) and not optimizer._optimizer_step_post_hooks


def test_hooks_are_gone_after_each_block_also_when_it_fails():
    model = model_of()[4:5]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = SpectralUpdateMonitor(model, every=1)
    assert nothing_left(model, optimizer)
    with monitor.attach(optimizer):
        assert not nothing_left(model, optimizer)
    assert nothing_left(model, optimizer)
    with pytest.raises(KeyError), monitor.attach(optimizer):
        raise KeyError
    assert nothing_left(model, optimizer)
    with pytest.raises(KeyError), monitor:
        raise KeyError
    assert nothing_left(model, optimizer)
    monitor.attach(optimizer)
    monitor.close()
    assert nothing_left(model, optimizer)


def test_between_two_readings_nothing_is_kept():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = SpectralUpdateMonitor(model, every=5)
    with monitor.attach(optimizer):
        train(model, 3, optimizer=optimizer)
        nn.functional.cross_entropy(model(batch(9)[0]), batch(9)[1]).backward()
        assert monitor._inputs == {}
        assert len(monitor.table().where(kind="measurement")) == 0


def skipped(monitor):
    rows = monitor.table().where(kind="skip").frame.to_dicts()
    return {(row["subject"], row["step"]): row["reason"] for row in rows}


def test_what_cannot_be_read_says_why():
    model = model_of()
    monitor = SpectralUpdateMonitor(model, every=1)
    assert "hold the gradient" in skipped(monitor)["6.weight", None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[7].weight.requires_grad_(False)
    with monitor:
        # Step 1: as it should be, but for a frozen weight.
        x, y = batch(0)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        monitor.observe(optimizer)
        # Step 2: gradients from before, no backward pass; then none at all.
        optimizer.step()
        monitor.observe(optimizer)
        optimizer.zero_grad()
        optimizer.step()
        monitor.observe(optimizer)
        # Step 4: the batch is overwritten before the step.
        nn.functional.cross_entropy(model(x), y).backward()
        x.zero_()
        optimizer.step()
        monitor.observe(optimizer)
    reasons = skipped(monitor)
    assert "no gradient" in reasons["7.weight", 1]
    assert ("4.weight", 1) not in reasons
    assert "no backward pass" in reasons["4.weight", 2]
    assert "no gradient" in reasons["4.weight", 3]
    assert "overwritten" in reasons["0.weight", 4]
    assert ("4.weight", 4) not in reasons


def test_rows_go_to_the_sink_and_steps_count_on(tmp_path):
    model = model_of()
    with (
        ParquetSink(tmp_path / "run") as sink,
        SpectralUpdateMonitor(model, every=2, sink=sink, first_step=10) as monitor,
    ):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for k in range(4):
            train(model, 1, optimizer=optimizer, start=k)
            monitor.observe(optimizer)
        sink.flush()
        frame = sink.table().where(metric="spectral_update_ratio").frame
    assert frame["step"].to_list() == [12] * 3 + [14] * 3
    assert frame["subject"].to_list()[:3] == ["0.weight", "4.weight", "7.weight"]


def test_bad_requests_are_refused():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(DomainError, match="at least 1"):
        SpectralUpdateMonitor(model, every=0)
    with pytest.raises(ArgumentTypeError, match="Sink"):
        SpectralUpdateMonitor(model, sink=[])
    with pytest.raises(DomainError, match="matches none"):
        SpectralUpdateMonitor(model, select="x.*")
    with pytest.raises(DomainError, match="whose weight is a parameter"):
        SpectralUpdateMonitor(model, select="6.*")
    monitor = SpectralUpdateMonitor(model)
    with pytest.raises(DomainError, match="with monitor:"):
        monitor.observe(optimizer)
