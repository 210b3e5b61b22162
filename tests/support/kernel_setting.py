"""A joint kernel of training and test points; gradients of torch's own losses."""

import torch

from spectrank.ntk.dynamics import gradient_flow

N, M, C = 4, 3, 2
LOSSES = {"mse": torch.nn.MSELoss, "cross_entropy": torch.nn.CrossEntropyLoss}


class Setting:
    """A joint kernel of training and test points, targets and outputs at the start."""

    def __init__(self, *, shared, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        size = (N + M) * (1 if shared else C)
        J = normal(size, size + 2)
        self.joint = J @ J.T / size
        split = N * (1 if shared else C)
        self.shared = shared
        blocks = self.joint[:split, :split], self.joint[split:, :split]
        self.K, self.K_test = (b if shared else self.unflat(b) for b in blocks)
        self.labels = torch.tensor([0, 1, 1, 0])
        self.Y = torch.nn.functional.one_hot(self.labels).double()
        self.f = normal(N + M, C)

    @staticmethod
    def unflat(block):
        a, b = len(block) // C, block.shape[1] // C
        return block.reshape(a, C, b, C).permute(0, 2, 1, 3).contiguous()

    def operator(self):
        """What takes gradients (n, c) on training points to all outputs, flat."""
        full = torch.kron(self.joint, torch.eye(C)) if self.shared else self.joint
        return full[:, : N * C].numpy()

    def predict(self, times, **options):
        return gradient_flow(
            self.K,
            self.labels,
            times,
            initial=self.f[:N],
            K_test=self.K_test,
            initial_test=self.f[N:],
            **options,
        )

    def check(self, flow, truth, *, rel):
        for i in range(len(truth)):
            want = torch.as_tensor(truth[i]).reshape(N + M, C)
            torch.testing.assert_close(flow.outputs[i], want[:N], rtol=rel, atol=rel)
            torch.testing.assert_close(
                flow.test_outputs[i], want[N:], rtol=rel, atol=rel
            )


def torch_gradient(f, setting, loss, reduction, factor):
    """Gradient of torch's own loss in the outputs."""
    outputs = torch.as_tensor(f).reshape(N, C).clone().requires_grad_()
    target = setting.labels if loss == "cross_entropy" else setting.Y
    value = factor * LOSSES[loss](reduction=reduction)(outputs, target)
    return torch.autograd.grad(value, outputs)[0].flatten().numpy(), float(
        value.detach()
    )


CONVENTIONS = [("mean", 1.0), ("sum", 0.5), ("sum", 1.0), ("mean", 3.0)]
