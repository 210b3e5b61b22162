"""Train many networks of one architecture as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.train.fleet.batches import Batches
from spectrank.train.fleet.choose import Choice, choose_route
from spectrank.train.fleet.coefficients import PerMember
from spectrank.train.fleet.data import Data, check_dataset, data_on
from spectrank.train.fleet.evaluate import evaluate
from spectrank.train.fleet.layout import default_group_size
from spectrank.train.fleet.losses import Loss, find_loss
from spectrank.train.fleet.optimizers import Optimizer
from spectrank.train.fleet.outcome import fingerprint, outcome
from spectrank.train.fleet.result import FleetResult
from spectrank.train.fleet.run import FleetRun, FleetView, Saving
from spectrank.train.fleet.settings import (
    Schedule,
    Settings,
    check_members,
    check_optimizer,
    positive,
    read_clip,
    read_factors,
    read_labels,
    read_seeds,
    read_stopping,
)
from spectrank.train.fleet.threads import single_threaded


def train_fleet(
    template: nn.Module,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    optimizer: Optimizer,
    max_steps: int | Sequence[int],
    loss: str = "cross_entropy",
    batch_size: int | None = None,
    seeds: Sequence[int] | None = None,
    dataset: Sequence[int] | None = None,
    target_loss: PerMember | None = None,
    smoothing: float = 0.9,
    schedule: Schedule | None = None,
    clip_norm: PerMember | None = None,
    evaluations: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    arms: Sequence[str] | None = None,
    record_every: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    on_step: Callable[[int, FleetView], None] | None = None,
    observe_every: int = 1,
    route: str = "auto",
    group_size: int | None = None,
    num_threads: int | None = None,
    device: torch.device | str | None = None,
) -> FleetResult:
    """Train M networks of one architecture, each as if it were alone.

    Step t of a member draws its next batch (``batch_order`` of its seed), takes the
    mean loss there, and updates its parameters as torch.optim would. A member stops
    after the step at which its smoothed loss (an exponential average of batch losses,
    divided by its weights' sum) is below ``target_loss``, after ``max_steps``, or
    before the step at which its loss is not finite. It is frozen from then on.

    A member's numbers depend on its own parameters, coefficients, seed and data; the
    other members, the size of groups and the number of threads change nothing but, on
    some hardware, the last bits. Nothing that is given is changed, and no global
    random state is read.

    Routes: ``mlp`` (an nn.Sequential of linear layers and elementwise maps: batched
    products and a backward pass by hand), ``vmap`` (any module), ``loop`` (any module,
    one member after the other; convolutions on a CPU). ``auto`` takes the first that
    fits; the result and its table name it.

    Args:
        template: One member; only its architecture, mode and buffers are used.
        parameters: Name to (M, *shape), as ``stack`` gives them; float32 or float64.
        inputs: (N, *shape) training inputs, or (D, N, *shape) with ``dataset``.
        targets: (N, ...) class indices or numbers, or (D, N, ...).
        optimizer: ``SGD`` or ``Adam``; each of its numbers for all or one a member.
        max_steps: Most updates, for all or for each member.
        loss: ``cross_entropy``, ``mse`` or ``bce_with_logits``, means over the batch.
        batch_size: Samples a batch; None for all of them.
        seeds: Of each member's batch order; needed if batches are smaller than N.
        dataset: Which of D data sets each member learns.
        target_loss: Smoothed loss to stop below, for all or for each member.
        smoothing: Weight of the past in the smoothed loss, in [0, 1).
        schedule: Factor of the learning rate by the number of updates done, as in
            torch.optim.lr_scheduler.LambdaLR.
        clip_norm: Most norm of a member's gradient, as clip_grad_norm_.
        evaluations: Name, such as ``test``, to inputs and targets on which every
            member is judged at the end.
        arms: A label a member, for the table.
        record_every: Keep the losses of every so many steps, and of the first; 8 bytes
            a loss.
        checkpoint: File that holds the run's state. If it exists the run goes on from
            it, bit for bit as if it had not been interrupted.
        checkpoint_every: Steps between two writes; the end is written too.
        on_step: Called with the updates done and a view of the fleet.
        observe_every: Steps between two calls.
        route: ``auto``, ``mlp``, ``vmap`` or ``loop``.
        group_size: Members batched together; by default as many as fit the cache.
        num_threads: Groups that run at a time on a CPU; default torch's own number.
        device: Where to train; default where the parameters are.

    Returns:
        Parameters, losses and ends of all members.

    Raises:
        DomainError: A number lies outside its range, or the template cannot be
            trained as a fleet.
        ShapeError: Members, parameters, data or lists do not fit each other.
        ArgumentTypeError: A dtype or an optimiser is not one of those supported.
        UnknownNameError: There is no loss or route of that name.
        CheckpointError: The checkpoint is damaged, of another run, or not writable.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spectrank.train import SGD, stack, train_fleet
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 8, generator=g)
        >>> y = (x[:, 0] > 0).long()
        >>> nets = [nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))]
        >>> result = train_fleet(
        ...     nets[0],
        ...     stack(nets * 3),
        ...     x,
        ...     y,
        ...     optimizer=SGD(learning_rate=[0.01, 0.1, 1.0], momentum=0.9),
        ...     batch_size=20,
        ...     seeds=[0, 0, 0],
        ...     max_steps=100,
        ... )
        >>> result.route, result.status, len(result.losses)
        ('mlp', ('max_steps', 'max_steps', 'max_steps'), 100)
    """  # noqa: DOC502
    num_members = check_members(template, parameters)
    parameters = {n: p.detach().to(device or p.device) for n, p in parameters.items()}
    like = next(iter(parameters.values()))
    which = check_dataset(inputs, dataset, num_members)
    data = data_on(inputs, targets, like, sets=which is not None)
    stopping = read_stopping(
        max_steps, target_loss, smoothing, record_every, num_members
    )
    size = data.num_samples if batch_size is None else batch_size
    size = min(positive("batch_size", size), data.num_samples)
    read_labels("arms", arms, num_members)
    settings = Settings(
        optimizer=check_optimizer(optimizer),
        coefficients=optimizer.coefficients(num_members),
        factors=read_factors(schedule, int(stopping.max_steps.max())),
        clip_norm=read_clip(clip_norm, num_members),
        stopping=stopping,
        batch_size=size,
        seeds=read_seeds(seeds, num_members, whole=size == data.num_samples),
        dataset=which,
        arms=None if arms is None else tuple(arms),
    )
    judge, loss_ = _evaluations(evaluations, like), find_loss(loss)
    choice = choose_route(
        template, loss_, parameters, *data.first(min(size, 32)), route=route
    )
    for labels in (data.all_targets(), *(held.targets for held in judge.values())):
        loss_.check(choice.outputs, labels)
    if group_size is None:
        group_size = default_group_size(parameters, len(optimizer.slots))
    if num_threads is None:
        num_threads = torch.get_num_threads()
    run = FleetRun(
        parameters,
        route=choice.route,
        settings=settings,
        batches=Batches(data, settings, num_members),
        group_size=positive("group_size", group_size),
        num_threads=positive("num_threads", num_threads),
    )
    run.run(
        None
        if checkpoint is None
        else Saving(
            Path(checkpoint),
            positive("checkpoint_every", checkpoint_every),
            fingerprint(template, parameters, data, settings, choice, loss_),
        ),
        on_step,
        positive("observe_every", observe_every),
    )
    trained = run.parameters()
    judged = _judged(trained, choice, loss_, judge, group_size)
    return outcome(template, trained, run.progress, settings, choice, judged)


def _evaluations(
    evaluations: Mapping[str, tuple[Tensor, Tensor]] | None, like: Tensor
) -> dict[str, Data]:
    return {
        name: data_on(inputs, targets, like, sets=False)
        for name, (inputs, targets) in (evaluations or {}).items()
    }


def _judged(
    parameters: Mapping[str, Tensor],
    choice: Choice,
    loss: Loss,
    judge: Mapping[str, Data],
    group_size: int,
) -> dict[str, np.ndarray]:
    with single_threaded(next(iter(parameters.values())).device):
        return {
            f"{name}_{metric}": values
            for name, data in judge.items()
            for metric, values in evaluate(
                choice.route,
                loss,
                parameters,
                data.inputs,
                data.targets,
                group_size=group_size,
            ).items()
        }
