"""Small models for kernels, and the kernel by plain autograd, one output at a time."""

import torch
from torch import nn
from torch.nn.utils import parametrizations


def brute_force(model, x1, x2=None, *, params=None, outputs="full"):
    """Kernel from a dense Jacobian: one backward pass per sample and output."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    names = names if params is None else list(params)
    J1 = jacobian(model, x1, names)
    J2 = J1 if x2 is None else jacobian(model, x2, names)
    full = torch.einsum("aip,bjp->abij", J1, J2)
    if outputs == "trace":
        return torch.einsum("abii->ab", full)
    return full if outputs == "full" else full.sum((2, 3))


def jacobian(model, x, names):
    """Return the dense Jacobian (n, c, P) by ``torch.autograd.grad``."""
    named = dict(model.named_parameters())
    chosen = [named[name] for name in names]
    frozen = [p for p in chosen if not p.requires_grad]
    for p in frozen:
        p.requires_grad_()
    rows = []
    for a in range(len(x)):
        outputs = model(x[a : a + 1])[0]
        for i in range(len(outputs)):
            found = torch.autograd.grad(
                outputs[i], chosen, retain_graph=True, allow_unused=True
            )
            rows.append(
                torch.cat(
                    [
                        torch.zeros_like(p).flatten() if g is None else g.flatten()
                        for p, g in zip(chosen, found, strict=True)
                    ]
                )
            )
    for p in frozen:
        p.requires_grad_(False)
    return torch.stack(rows).reshape(len(x), -1, rows[0].numel())


class Tied(nn.Module):
    """An encoder and a decoder that share one weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Twice(nn.Module):
    """One layer that is called twice in a pass."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Recurrent(nn.Module):
    """A recurrent layer with a readout of its last step."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell(3, 4, batch_first=True)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.cell(x)[0][:, -1])


class Square(torch.autograd.Function):
    """A square whose author wrote no forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Squares(nn.Module):
    """A network whose activation has no forward mode."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(Square.apply(self.first(x)))


class Branching(nn.Module):
    """Control flow that depends on the data: no vmap takes it."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(3, 2)
        self.right = nn.Linear(3, 2)

    def forward(self, x):
        return torch.stack(
            [self.left(r) if float(r.sum()) > 0 else self.right(r) for r in x]
        )


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 4, 3, groups=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def batch_norm():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    return model.eval()


def spectral():
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2)
    ).eval()


def old_spectral():
    layer = nn.utils.spectral_norm(nn.Linear(4, 5))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 2)).eval()


def frozen():
    model = mlp()
    model[0].weight.requires_grad_(False)
    return model


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Embedding(7, 4), layer, nn.Flatten(), nn.Linear(20, 3))
    return model.eval()


VECTORS = {"shape": (5, 4)}
MODELS = {
    "mlp": (mlp, VECTORS),
    "cnn": (cnn, {"shape": (5, 2, 6, 5)}),
    "shared": (Tied, VECTORS),
    "twice": (Twice, {"shape": (5, 5)}),
    "batch_norm": (batch_norm, VECTORS),
    "parametrised": (spectral, VECTORS),
    "old_spectral_norm": (old_spectral, VECTORS),
    "frozen": (frozen, VECTORS),
    "encoder": (encoder, {"shape": (5, 5), "tokens": 7}),
    "gru": (lambda: Recurrent(nn.GRU), {"shape": (4, 3, 3)}),
    "lstm": (lambda: Recurrent(nn.LSTM), {"shape": (4, 3, 3)}),
    "no_forward_mode": (Squares, VECTORS),
    "branching": (Branching, {"shape": (6, 3)}),
}


def make(name, seed=0, dtype=torch.float64):
    """Return a model of ``MODELS`` and two sets of inputs, of five and three."""
    build, spec = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().to(dtype)
        shape = (spec["shape"][0] + 3, *spec["shape"][1:])
        if "tokens" in spec:
            x = torch.randint(spec["tokens"], shape)
        else:
            x = torch.randn(shape, dtype=dtype)
    return model, x[:-3], x[-3:]
