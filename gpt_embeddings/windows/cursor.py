"""The cursor: where the next window comes from, in which epoch, and what happens when an epoch ends."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import get_worker_info


class Cursor:
    """An epoch, the stream whose turn it is, and the state of each stream.

    Worker processes have a copy each. Those that live from epoch to epoch (`persistent_workers`) learn through shared
    memory which epoch the main process wants next, and whether a state was loaded that they do not have.
    """

    def __init__(self, num_streams: int) -> None:
        self.epoch, self._turn = 0, 0
        self.states: list[dict[str, Any] | None] = [None] * num_streams  # of each stream; None at its beginning
        self.resumed = False  # a state was loaded, at which the next iteration begins
        self._finished = False
        self._n_loaded = 0  # states that this copy has
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # the next epoch; states loaded

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # a copy or a pickle has memory of its own; a worker's is shared already

    def begin(self) -> None:
        """Begin an iteration: at the loaded state, else at the beginning of the epoch."""
        if self._n_loaded != int(self._shared[1]):
            raise RuntimeError(
                "A state was loaded while `persistent_workers` were alive, so they do not have it. Load it before the "
                "first iteration, make a new loader, or use `windows.dataloader(..., persistent_workers=True)`, which "
                "restarts its workers."
            )
        if not self.resumed:
            self._restart(int(self._shared[0]))
        self.resumed = False

    def order(self) -> list[int]:
        """Return the streams in the order of their turns."""
        num_streams = len(self.states)
        return [(self._turn + i) % num_streams for i in range(num_streams)]

    def advance(self, stream: int, state: dict[str, Any] | None) -> None:
        """Note the state of a stream after its turn."""
        self.states[stream] = state
        self._turn = (stream + 1) % len(self.states)

    def finish(self) -> None:
        """End the epoch. In a worker the main process decides what is next, as other workers may not be done."""
        if get_worker_info() is None:
            self.set_epoch(self.epoch + 1)
        else:
            self._finished = True

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens if it is the current one."""
        if epoch != self.epoch or epoch != int(self._shared[0]):
            self._shared[0] = epoch
            self._restart(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor, JSON-serializable."""
        return {"epoch": self.epoch, "turn": self._turn, "streams": list(self.states), "finished": self._finished}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to a saved cursor; the next iteration begins there."""
        self.epoch, self._turn = state_dict["epoch"], state_dict["turn"]
        self.states, self.resumed = list(state_dict["streams"]), True
        if get_worker_info() is None:
            self._shared[0] = self.epoch
            self._shared[1] += 1
            self._n_loaded = int(self._shared[1])
        elif state_dict["finished"]:
            # A stateful loader gives each worker its own state; the epoch after that of a state is a later one.
            self._shared[0] = max(int(self._shared[0]), self.epoch + 1)

    def _restart(self, epoch: int) -> None:
        self.epoch, self._turn, self._finished, self.resumed = epoch, 0, False, False
        self.states = [None] * len(self.states)
