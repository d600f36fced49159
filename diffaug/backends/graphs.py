"""CUDA graphs: launch all kernels of a call at once, where Python launches one after the other."""

import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from diffaug.backends.spec import ModelSpec
from diffaug.errors import first_line
from diffaug.training_graphs import are_wanted

_log = logging.getLogger("diffaug")

#: Kinds of call that are recorded of one module; others run as always.
MOST_GRAPHS = 8
#: So many times may the weights of a module move before it is never recorded again.
MOST_MOVES = 3
#: What an autoencoder runs, whether it takes images at once or one by one.
_PARTS = ("encoder", "decoder")


class Recorder(Protocol):
    """What records calls and repeats them: CUDA, or a fake in tests."""

    def rehearse(self, call: Callable[[], Any]) -> Any:
        """Run a call as it will be recorded, and return its output."""

    def record(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Return what repeats a call, and the output that each repetition overwrites."""


class CudaRecorder:
    """Record the kernels of calls on one GPU; all recordings share memory.

    That is safe since they run one after the other, and each output is copied at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, call: Callable[[], Any]) -> Any:
        """Run a call on the stream of recording, where libraries set up what they need."""
        with torch.cuda.device(self._device):
            now = torch.cuda.current_stream()
            self._stream.wait_stream(now)
            with torch.cuda.stream(self._stream):
                output = call()
            now.wait_stream(self._stream)
            torch.cuda.synchronize()
        return output

    def record(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record a call; other threads may use the GPU meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            output = call()
        return graph.replay, output


@dataclass(frozen=True, eq=False)
class _Graph:
    """A recorded call: its inputs, to be overwritten, and its output."""

    inputs: Any
    repeat: Callable[[], None]
    output: Any
    weights: list[int]


class Graphs:
    """Repeat calls of modules from recordings, with the same output bit for bit.

    The first call of each kind (shapes, types and other arguments) runs as always. The second one
    is recorded, and compared with what the module itself returns. Where something fails or differs,
    everything runs as always from then on.

    Args:
        device: inputs elsewhere are not recorded.
        recorder: what records.
    """

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        self._device = device
        self._recorder = recorder
        self._enabled = True
        self._modules: list[_Module] = []

    def add(self, module: torch.nn.Module) -> None:
        """Let a module repeat its calls; hooks of its parts do not run when it does."""
        wrapped = _Module(module, self)
        self._modules.append(wrapped)
        module.forward = functools.wraps(module.forward)(wrapped)

    @property
    def recorded(self) -> int:
        """How many recordings there are now."""
        return sum(len(module.graphs) for module in self._modules)

    def stop(self) -> bool:
        """Forget all recordings and make no more; return whether there were any."""
        had = self.recorded > 0
        self._enabled = False
        for module in self._modules:
            module.graphs.clear()
            module.seen.clear()
        return had

    def _record(self, forward: Callable[..., Any], inputs: Any, weights: list[int]) -> _Graph:
        """Record a call.

        Raises:
            RuntimeError: it cannot be recorded, or repeating it gives another output.
        """
        kept = _map(lambda tensor: tensor.detach().clone(), inputs)
        arguments, settings = kept

        def call() -> Any:
            return forward(*arguments, **settings)

        expected = self._recorder.rehearse(call)
        repeat, output = self._recorder.record(call)
        if not _is_plain(output):
            raise RuntimeError(f"its output is a {type(output).__name__}")
        repeat()
        pairs = zip(_tensors(expected), _tensors(output), strict=True)
        if not all(itertools.starmap(_same_bits, pairs)):
            raise RuntimeError("a repeated call differs from the call itself")
        return _Graph(kept, repeat, output, weights)

    def attempt(self, forward: Callable[..., Any], inputs: Any, weights: list[int]) -> Any:
        """Record a call, or return None and record no more."""
        if not self._enabled:
            return None
        try:
            return self._record(forward, inputs, weights)
        except Exception as error:  # whatever it is, the call itself can still run
            reason = f"{type(error).__name__}: {first_line(error)}"
        # Here and not above, because the exception held tensors until now.
        self.stop()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        _log.info("no CUDA graphs are used from now on: %s", reason)
        return None

    def takes(self, inputs: Any) -> bool:
        """Return whether calls with these inputs may be recorded."""
        return (
            self._enabled
            and not torch.is_grad_enabled()
            and all(tensor.device == self._device for tensor in _tensors(inputs))
        )


class _Module:
    """The calls of one module, by kind."""

    def __init__(self, module: torch.nn.Module, owner: Graphs) -> None:
        self._forward = module.forward
        self._owner = owner
        self._weights = [*module.parameters(), *module.buffers()]
        self._moves = 0
        self.seen: set[Any] = set()
        self.graphs: dict[Any, _Graph] = {}

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        inputs = (arguments, settings)
        graph = self._graph_of(inputs)
        if graph is None:
            return self._forward(*arguments, **settings)
        for kept, tensor in zip(_tensors(graph.inputs), _tensors(inputs), strict=True):
            kept.copy_(tensor)
        graph.repeat()
        return _map(torch.Tensor.clone, graph.output)

    def _graph_of(self, inputs: Any) -> _Graph | None:
        if self._moves > MOST_MOVES or not self._owner.takes(inputs):
            return None
        kind = _kind(inputs)
        try:
            is_new = kind not in self.seen
        except TypeError:  # an argument that cannot be compared
            return None
        weights = [weight.data_ptr() for weight in self._weights]
        graph = self.graphs.get(kind)
        if graph is not None and graph.weights == weights:
            return graph
        if graph is not None:
            # A change of precision has moved the weights, and recordings read where they were.
            self.graphs.clear()
            self._moves += 1
            return None
        if is_new:
            self.seen.add(kind)
            return None
        if len(self.graphs) >= MOST_GRAPHS:
            return None
        graph = self._owner.attempt(self._forward, inputs, weights)
        if graph is not None:
            self.graphs[kind] = graph
        return graph


def use_graphs(pipe: Any, spec: ModelSpec, device: torch.device) -> Graphs | None:
    """Let the U-Net and the autoencoder of a pipeline repeat their calls, where CUDA runs them.

    ``DIFFAUG_GRAPHS=never`` turns it off. Offloading moves weights. Pipelines without a U-Net keep
    a GPU busy anyway, for they are large.

    Returns:
        What stops it, or None where there are no graphs.
    """
    if not wants_graphs(pipe, spec, device):
        return None
    device = pipe.unet.device  # with its number
    return repeat_calls(pipe, Graphs(device, CudaRecorder(device)))


def wants_graphs(pipe: Any, spec: ModelSpec, device: torch.device) -> bool:
    """Return whether ``use_graphs`` uses any."""
    return device.type == "cuda" and not spec.offload and are_wanted() and hasattr(pipe, "unet")


def repeat_calls(pipe: Any, graphs: Graphs) -> Graphs:
    """Let the U-Net and the autoencoder of a pipeline repeat their calls."""
    autoencoder = getattr(pipe, "vae", None)
    for module in (pipe.unet, *(getattr(autoencoder, part, None) for part in _PARTS)):
        if isinstance(module, torch.nn.Module):
            graphs.add(module)
    return graphs


def _kind(value: Any) -> Any:
    """Return what calls must have in common to be one recording."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, dict):
        return tuple((name, _kind(part)) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), *map(_kind, value)
    return type(value), value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _map(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _map(function, part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map(function, part) for part in value)
    return value


def _is_plain(output: Any) -> bool:
    """Return whether an output is a tensor or a tuple of tensors."""
    parts = output if type(output) is tuple else (output,)
    return all(isinstance(part, torch.Tensor) for part in parts)


def _same_bits(expected: torch.Tensor, actual: torch.Tensor) -> bool:
    """Compare bits, so that what is not a number equals itself."""
    if _kind(expected) != _kind(actual):
        return False
    left, right = (tensor.flatten().view(torch.uint8) for tensor in (expected, actual))
    return torch.equal(left, right)
