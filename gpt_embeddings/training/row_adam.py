"""Adam for embedding tables: the cost of a step grows with the rows of a batch, not with the vocabulary.

The steps are those of `torch.optim.Adam` on the rows that have a gradient. `torch.optim.SparseAdam` is not used: it
refuses the dense gradient of a position table, adds `eps` before the bias correction, so that its steps differ from
Adam's where gradients are small, and is slower (`python scripts/benchmark_optimizer.py`).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class RowAdam(torch.optim.Optimizer):
    """Adam that updates only the rows of a sparse gradient, and their moments.

    If the gradient is sparse (`nn.Embedding(..., sparse=True)`, or `wte.sparse = True` for
    [`GPTEmbeddingsModel.embed_bags`]), rows without gradient and their moments do not change. A parameter with a dense
    gradient is updated as by `torch.optim.Adam`.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        betas: Decay rates of the running means of the gradient and of its square.
        eps: Added to the denominator.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
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
                    state["step"] = torch.zeros(())  # on the CPU, so that reading it does not wait for a device
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                grad, mean, square = parameter.grad, state["exp_avg"], state["exp_avg_sq"]
                sparse = grad.is_sparse
                if sparse:
                    grad = grad.coalesce()
                    rows, grad = grad.indices()[0], grad.values()  # (touched,), (touched, ...)
                    mean, square = mean.index_select(0, rows), square.index_select(0, rows)
                beta1, beta2 = group["betas"]
                mean.lerp_(grad, 1 - beta1)
                square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                count = state["step"].item()
                scale = math.sqrt(1 - beta2**count)
                update = mean.div(square.sqrt().add_(group["eps"] * scale)).mul_(scale / (1 - beta1**count))
                if sparse:
                    state["exp_avg"].index_copy_(0, rows, mean)
                    state["exp_avg_sq"].index_copy_(0, rows, square)
                    parameter.index_add_(0, rows, update, alpha=-group["lr"])
                else:
                    parameter.add_(update, alpha=-group["lr"])
        return loss
