"""A model, data, and both sides of the condition by autograd and dense SVDs."""

import torch
from torch import nn


def ranks(G, A):
    s, t = torch.linalg.svdvals(G.double()), torch.linalg.svdvals(A.double())
    return (
        float(s.sum() ** 2 / s.square().sum()),
        float(t.square().sum() / t[0] ** 2),
    )


def rows_of(table, subject):
    return {
        (row["metric"], row["variant"]): row
        for row in table.where(subject=subject).frame.to_dicts()
    }


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
    ).double()


def data(num=24, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 6, dtype=torch.float64, generator=g)
    return x, torch.randint(0, 3, (num,), generator=g)


def oracle(model, x, y, loss=nn.functional.cross_entropy):
    """(G, A) of each linear layer, by backward() and a forward pass by hand."""
    taken, h = {}, x
    for k, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            taken[f"{k}.weight"] = h.detach()
        h = layer(h)
    names = {f"{k}.weight": model[int(k)].weight for k in (0, 2, 4)}
    grads = torch.autograd.grad(loss(h, y), list(names.values()))
    return {n: (g, taken[n]) for n, g in zip(names, grads, strict=True)}
