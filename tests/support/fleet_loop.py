"""The oracle of the fleet: M separate models, torch.optim, loss.backward."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional

LOSSES = {
    "cross_entropy": functional.cross_entropy,
    "mse": functional.mse_loss,
    "bce_with_logits": functional.binary_cross_entropy_with_logits,
}


def perceptron(
    widths, *, activation=nn.ReLU, bias=True, seed=0, last=None, dtype=torch.float64
):
    """Return an nn.Sequential with Gaussian weights and biases."""
    layers = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m, bias=bias), activation()]
    return drawn(nn.Sequential(*layers[:-1], *([last()] if last else [])), seed, dtype)


def drawn(module, seed, dtype=torch.float64):
    """Fill a module's parameters from a seed."""
    g = torch.Generator().manual_seed(seed)
    module = module.to(dtype)
    with torch.no_grad():
        for p in module.parameters():
            scale = (2.0 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.copy_(scale * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return module


def class_data(num_samples=48, shape=(7,), classes=4, seed=0, dtype=torch.float64):
    """Return inputs and class labels."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, *shape, generator=g, dtype=torch.float64)
    y = torch.randint(0, classes, (num_samples,), generator=g)
    return x.to(dtype), y


def order(seed, num_samples, batch_size):
    """Yield batches of a DataLoader's kind: permutations, the remainder left out."""
    g = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(num_samples, generator=g).split(batch_size):
            if len(index) == batch_size:
                yield index


def train_alone(
    module,
    x,
    y,
    make_optimizer,
    *,
    steps,
    batch_size=None,
    seed=0,
    loss="cross_entropy",
    schedule=None,
    clip_norm=None,
    before_step=None,
):
    """Train one copy of a module; return it with its losses."""
    module = copy.deepcopy(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters)
    scheduler = None
    if schedule is not None:
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    batches = order(seed, len(x), batch_size) if batch_size else None
    losses = []
    for _ in range(steps):
        index = next(batches) if batches else slice(None)
        value = LOSSES[loss](module(x[index]), y[index])
        optimizer.zero_grad()
        value.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        if before_step is not None:
            before_step(parameters)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(float(value.detach()))
    return module, losses


def largest_difference(parameters, modules):
    """Return the largest absolute difference of stacked parameters from modules'."""
    return max(
        float((parameters[name][i] - p.detach()).abs().max())
        for i, module in enumerate(modules)
        for name, p in module.named_parameters()
    )
