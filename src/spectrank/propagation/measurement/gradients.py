"""From the gradient at a layer's output to that at its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spectrank.model import LayerBatch
from spectrank.model.capture.undisturbed import Mode, RandomStream, undisturbed

_NO_INPUT = (nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)


def input_gradients(
    model: nn.Module, record: LayerBatch, mode: Mode
) -> list[Tensor] | str:
    """J_l^T v through the layer itself: W^T times the captured output gradient.

    Args:
        model: That holds the layer; left as it was.
        record: With output gradients.
        mode: In which the model ran.

    Returns:
        One tensor of the shape of the layer's input for each cotangent; or the reason
        why there is none.
    """
    module = model.get_submodule(record.name)
    if isinstance(module, _NO_INPUT):
        return f"{type(module).__name__} is no map of one tensor of numbers"
    gradients = record.output_gradients
    inputs = record.inputs
    if gradients is None or inputs is None or not inputs.is_floating_point():
        return "the layer runs without gradients, or takes no tensor of numbers"
    per_logit = gradients.ndim == record.outputs.ndim + 1
    with (
        RandomStream().active(),
        torch.inference_mode(mode=False),
        undisturbed(model, mode),
        torch.enable_grad(),
    ):
        at = inputs.detach().clone().requires_grad_()
        # Not the call itself: hooks have seen this batch already.
        output = module.forward(at)
        if not isinstance(output, Tensor) or output.shape != record.outputs.shape:
            return f"{type(module).__name__} gives no tensor of its own shape alone"
        return [
            torch.autograd.grad(output, at, v.to(output), retain_graph=True)[0]
            for v in (gradients if per_logit else [gradients])
        ]
