"""Statistics over processes: gloo, two of them, uneven shares."""

import subprocess
import sys
import textwrap

import pytest
import torch
from collapse_dense import batches, mlp
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.collapse.statistics import gather

# Imports are most of the cost, so one interpreter imports and then becomes two
# processes, before any thread is started: argv is the folder.
WORKER = textwrap.dedent(
    """
    import datetime, os, sys, torch
    import torch.distributed as dist
    from torch import nn
    from spectrank.collapse.statistics import gather

    folder, other = sys.argv[1], os.fork()
    rank = 0 if other else 1
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=100),
    )
    data = torch.load(f"{folder}/data.pt", weights_only=True)
    scenes = {}
    for scene, loss, keep in (
        ("classes", "cross_entropy", 1 << 20),
        ("ignored", nn.CrossEntropyLoss(), 20 * 14 * 8),
        ("regression", "mse", 1 << 20),
    ):
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        model.load_state_dict(data["state"])
        found = gather(
            model, data[scene][rank], loss=loss, keep_bytes=keep,
            group=dist.group.WORLD,
        )
        scenes[scene] = {
            "divisor": found.divisor, "loss": found.loss, "num": found.num_samples,
            "agreeing": found.outputs.num_agreeing,
            "layers": [
                {
                    "gradient": layer.gradient(), "within": layer.cross.within,
                    "counts": layer.cross.inputs.counts,
                    "traces": layer.features.traces,
                    "rows": layer.kept.rows, "labels": layer.kept.labels,
                    "seen": layer.kept.num_seen,
                }
                for layer in found.layers
            ],
        }
    torch.save(scenes, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()
    if other:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) != 0)
    """
)


def shares(x, y):
    """The first 11 samples in one process, the other 30 in the other."""
    return [batches(x[:11], y[:11], 4), batches(x[11:], y[11:], 7)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reduce")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(41, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (41,), generator=g)
    # One process meets no sample of class 2, and no ignored label.
    y[:11] = y[:11] % 2
    ignored = y.clone()
    ignored[20:25] = -100
    targets = torch.randn(41, 3, generator=g, dtype=torch.float64)
    model = mlp(6, 8, 3)
    data = {
        "state": model.state_dict(),
        "classes": shares(x, y),
        "ignored": shares(x, ignored),
        "regression": shares(x, targets),
    }
    torch.save(data, folder / "data.pt")
    command = [sys.executable, "-c", WORKER, str(folder)]
    done = subprocess.run(command, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = [torch.load(folder / f"found{r}.pt", weights_only=True) for r in (0, 1)]
    return model, x, {"classes": y, "ignored": ignored, "regression": targets}, found


LOSSES = {
    "classes": ("cross_entropy", F.cross_entropy),
    "ignored": (nn.CrossEntropyLoss(), F.cross_entropy),
    "regression": ("mse", F.mse_loss),
}


@pytest.mark.parametrize("scene", LOSSES)
def test_processes_together_equal_one_alone(scenes, scene):
    model, x, targets, found = scenes
    loss, function = LOSSES[scene]
    y = targets[scene]
    alone = gather(model, [(x, y)], loss=loss)
    value = function(model(x), y)
    for mine in (found[0][scene], found[1][scene]):
        # Samples whose label is ignored do not count.
        assert mine["num"] == (36 if scene == "ignored" else 41)
        assert mine["divisor"] == alone.divisor
        assert mine["loss"] == pytest.approx(value.item(), rel=FLOAT64)
        assert mine["agreeing"] == alone.outputs.num_agreeing
        for layer, index, other in zip(
            mine["layers"], (0, 2), alone.layers, strict=True
        ):
            (wanted,) = torch.autograd.grad(
                value, [model[index].weight], retain_graph=True
            )
            torch.testing.assert_close(layer["gradient"], wanted)
            assert torch.equal(layer["counts"], other.cross.inputs.counts)
            torch.testing.assert_close(layer["within"], other.cross.within)
            torch.testing.assert_close(layer["traces"], other.features.traces)


def test_each_process_ends_with_the_same_bits(scenes):
    _, _, _, (first, second) = scenes
    for scene in LOSSES:
        for mine, theirs in zip(
            first[scene]["layers"], second[scene]["layers"], strict=True
        ):
            for name in ("gradient", "within", "rows", "labels"):
                assert torch.equal(mine[name], theirs[name])


def test_rows_of_all_processes_are_kept_in_the_order_of_ranks(scenes):
    _, x, targets, (found, _) = scenes
    layer = found["classes"]["layers"][0]
    assert layer["seen"] == 41
    assert torch.equal(layer["rows"], x)
    assert torch.equal(layer["labels"], targets["classes"])


def test_a_sample_over_processes_has_distinct_rows_of_both(scenes):
    _, x, targets, (found, _) = scenes
    layer = found["ignored"]["layers"][0]
    assert (layer["seen"], len(layer["rows"])) == (36, 20)
    kept = (targets["ignored"] != -100).nonzero().flatten().tolist()
    # Rows are found again by their first entry; all differ.
    place = [x[:, 0].tolist().index(float(row[0])) for row in layer["rows"]]
    assert place == sorted(set(place) & set(kept))
    assert min(place) < 11 <= max(place)
    assert torch.equal(layer["labels"], targets["ignored"][place])
