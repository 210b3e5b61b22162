"""What the layerwise kernel holds in memory, and that it leaves no trace."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from spectrank.ntk.layerwise import layerwise_kernel, supported


class Largest(TorchDispatchMode):
    """Records the largest storage that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.num_bytes = max(self.num_bytes, leaf.untyped_storage().nbytes())
        return result


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(200, 300),
        nn.ReLU(),
        nn.Linear(300, 300),
        nn.ReLU(),
        nn.Linear(300, 5),
    )


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 64, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


MODELS = {
    "perceptron": (perceptron, (200,), 16),
    "convolutions": (convolutions, (3, 8, 8), 8),
}


@pytest.mark.parametrize("outputs", ["full", "trace"])
@pytest.mark.parametrize("name", MODELS)
def test_no_jacobian_is_allocated(name: str, outputs: str) -> None:
    make, shape, n = MODELS[name]
    model = make().eval()
    x = torch.randn(n, *shape)
    rules = supported(model, x)
    size = sum(p.numel() for p in model.parameters())
    jacobian = n * 5 * size * 4
    memory = 1 << 17
    with Largest() as largest:
        kernel = layerwise_kernel(
            model,
            x,
            outputs=outputs,
            params=frozenset(rules),
            memory=memory,
            support=rules,
        )
    assert jacobian > 8 * max(memory, kernel.nbytes)
    # One sample may need more than the ceiling, the gradient of all weights never.
    assert largest.num_bytes <= max(memory, kernel.nbytes, 4 * size)


def test_a_block_holds_a_slice_of_the_gradients_of_its_samples() -> None:
    model = convolutions().eval()
    x = torch.randn(16, 3, 8, 8)
    names = frozenset(supported(model, x))
    truth = layerwise_kernel(model, x, outputs="full", params=names)
    with Largest() as largest:
        kernel = layerwise_kernel(
            model, x, outputs="full", params=names, block=16, memory=1 << 18
        )
    # Gradients of the second convolution are 16 * 5 * 9,216 numbers, 2.9 MB.
    assert largest.num_bytes < 1 << 20
    torch.testing.assert_close(kernel, truth)


@pytest.mark.parametrize("memory", [1 << 19, 1 << 20])
def test_every_tensor_is_below_the_ceiling(memory: int) -> None:
    model = perceptron()
    x = torch.randn(60, 200)
    names = frozenset(supported(model, x))
    rules = supported(model, x)
    with Largest() as largest:
        layerwise_kernel(
            model, x, outputs="trace", params=names, memory=memory, support=rules
        )
    assert largest.num_bytes <= memory


@pytest.mark.parametrize("outputs", ["full", "trace", "sum_logits"])
@pytest.mark.parametrize("limits", [{}, {"block": 3}, {"memory": 1}])
@pytest.mark.parametrize("two", [True, False])
def test_a_mapped_file_holds_the_kernel(
    tmp_path, outputs: str, limits: dict, two: bool
) -> None:
    torch.manual_seed(3)
    model = convolutions().double().eval()
    x1 = torch.randn(7, 3, 5, 5).double()
    x2 = torch.randn(4, 3, 5, 5).double() if two else None
    names = frozenset(supported(model, x1))
    truth = layerwise_kernel(model, x1, x2, outputs=outputs, params=names)
    mapped = torch.from_file(
        str(tmp_path / "kernel"), shared=True, size=truth.numel(), dtype=torch.float64
    )
    out = mapped.view(truth.shape).fill_(9.0)
    found = layerwise_kernel(
        model, x1, x2, outputs=outputs, params=names, out=out, **limits
    )
    assert found is out
    torch.testing.assert_close(out, truth)
    if not two and outputs == "full":
        assert torch.equal(out, out.permute(1, 0, 3, 2))


def test_progress_counts_blocks() -> None:
    model = perceptron()
    x = torch.randn(5, 200)
    names = frozenset(supported(model, x))
    seen: list[tuple[int, int]] = []
    layerwise_kernel(
        model,
        x,
        outputs="trace",
        params=names,
        block=2,
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(k, 6) for k in range(1, 7)]
    seen.clear()
    layerwise_kernel(
        model,
        x,
        x[:3],
        outputs="trace",
        params=names,
        block=2,
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(k, 6) for k in range(1, 7)]


@pytest.mark.parametrize("name", MODELS)
def test_model_and_random_state_are_left_as_they_were(name: str) -> None:
    make, shape, _ = MODELS[name]
    model = make().eval()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    x = torch.randn(4, *shape, requires_grad=True)
    before, state = copy.deepcopy(model), torch.get_rng_state()
    versions = {n: t._version for n, t in model.state_dict(keep_vars=True).items()}
    held = {n: id(t) for n, t in model.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        rules = supported(model, x)
        layerwise_kernel(model, x, outputs="trace", params=frozenset(rules))
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict(keep_vars=True)
    assert {n: t._version for n, t in after.items()} == versions
    assert {n: id(t) for n, t in after.items()} == held
    for old, new in zip(before.modules(), model.modules(), strict=True):
        assert new.training == old.training
        assert vars(new).keys() == vars(old).keys()
        assert not new._forward_hooks
        assert not new._forward_pre_hooks
    for (key, old), new in zip(
        before.named_parameters(), model.parameters(), strict=True
    ):
        assert torch.equal(old, new), key
        assert old.requires_grad == new.requires_grad
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert [p.grad for p in model.parameters()][1:] == [None] * (
        len(list(model.parameters())) - 1
    )
    assert x.grad is None


def test_gradients_switched_off_outside_do_not_matter() -> None:
    model = perceptron()
    x = torch.randn(4, 200)
    names = frozenset(supported(model, x))
    plain = layerwise_kernel(model, x, outputs="full", params=names)
    with torch.no_grad():
        quiet = layerwise_kernel(model, x, outputs="full", params=names)
    with torch.inference_mode():
        inner = x.clone()
        assert frozenset(supported(model, inner)) == names
        inferred = layerwise_kernel(model, inner, outputs="full", params=names)
    assert plain.ne(0).any()
    for kernel in (quiet, inferred):
        assert not kernel.requires_grad
        torch.testing.assert_close(kernel, plain)


def test_checkpointed_layers() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
            self.out = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(checkpoint(self.inner, x, use_reentrant=False))

    model = Checkpointed().double()
    plain = nn.Sequential(*model.inner, model.out)
    x = torch.randn(4, 3).double()
    for outputs in ("full", "trace"):
        found = layerwise_kernel(
            model, x, outputs=outputs, params=frozenset(supported(model, x))
        )
        truth = layerwise_kernel(
            plain, x, outputs=outputs, params=frozenset(supported(plain, x))
        )
        torch.testing.assert_close(found, truth)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_gives_the_kernel_of_the_cpu(name: str) -> None:
    make, shape, n = MODELS[name]
    model = make().double().eval()
    x = torch.randn(n, *shape).double()
    names = frozenset(supported(model, x))
    truth = layerwise_kernel(model, x, x[:3], outputs="full", params=names)
    found = layerwise_kernel(
        model.cuda(), x.cuda(), x[:3].cuda(), outputs="full", params=names
    )
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), truth)
