"""Adam for tables of which a step touches few rows: its cost grows with the batch, not with the vocabulary.

On sparse gradients the steps are those of `torch.optim.SparseAdam`, which takes no dense ones, as a position table
has. Left out: weight decay, which would have to touch every row.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class RowAdam(torch.optim.Optimizer):
    """Adam that touches only the rows of a sparse gradient, and their moments.

    Of a parameter with a sparse gradient (`nn.Embedding(..., sparse=True)`, or `wte.sparse = True` for
    [`GPTEmbeddingsModel.embed_bags`]) the rows without gradient stay as they are, and so do their moments. A parameter
    with a dense gradient is updated as `torch.optim.Adam` does.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        betas: Decay of the running mean of the gradient and of its square.
        eps: Added to the root of the latter.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not 0 < lr < float("inf"):
            raise ValueError(f"`lr` must be above 0, got {lr}.")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"`betas` must be from 0 to below 1, got {betas}.")
        if not eps > 0:
            raise ValueError(f"`eps` must be above 0, got {eps}.")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with the gradients at hand; parameters without one are left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())  # stays where it is, so that reading it waits for no device
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                if parameter.grad.is_sparse:
                    _step_rows(parameter, parameter.grad.coalesce(), state, group)
                else:
                    update = _advance(state["exp_avg"], state["exp_avg_sq"], parameter.grad, state["step"], group)
                    parameter.add_(update, alpha=-group["lr"])
        return loss


def _step_rows(
    parameter: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]
) -> None:
    rows, values = grad.indices()[0], grad.values()  # (touched,), (touched, ...)
    mean, square = state["exp_avg"].index_select(0, rows), state["exp_avg_sq"].index_select(0, rows)
    update = _advance(mean, square, values, state["step"], group)
    state["exp_avg"].index_copy_(0, rows, mean)
    state["exp_avg_sq"].index_copy_(0, rows, square)
    parameter.index_add_(0, rows, update, alpha=-group["lr"])


def _advance(
    mean: torch.Tensor, square: torch.Tensor, grad: torch.Tensor, step: torch.Tensor, group: dict[str, Any]
) -> torch.Tensor:
    """Move both moments in place and return the step to take, before the learning rate."""
    beta1, beta2 = group["betas"]
    mean.lerp_(grad, 1 - beta1)
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    count = step.item()
    scale = math.sqrt(1 - beta2**count)
    return mean.div(square.sqrt().add_(group["eps"] * scale)).mul_(scale / (1 - beta1**count))
