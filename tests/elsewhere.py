"""Tensors that play ones on a GPU, for what must happen on the CPU."""

from typing import Any

import torch


class Elsewhere(torch.Tensor):
    """A tensor that plays one on a GPU, until ``cpu`` is called."""

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        """Return a plain tensor."""
        return self.as_subclass(torch.Tensor)


class OnMps(Elsewhere):
    """A tensor that plays one on MPS, which has no float64."""

    @property
    def device(self) -> torch.device:
        """Return where it plays to be."""
        return torch.device("mps")

    def double(self, *_: Any, **__: Any) -> torch.Tensor:
        """Refuse, as MPS does."""
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
            "float64. Please use float32 instead."
        )


def play_mps(monkeypatch: Any) -> None:
    """Let tensors be moved to MPS, where they are ``OnMps``."""
    move = torch.Tensor.to

    def to(self: torch.Tensor, *arguments: Any, **settings: Any) -> torch.Tensor:
        if arguments[:1] == (torch.device("mps"),):
            return self.as_subclass(OnMps)
        return move(self, *arguments, **settings)

    monkeypatch.setattr(torch.Tensor, "to", to)
