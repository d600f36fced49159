"""A backend for tests and documentation, which needs no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from diffaug.arguments import shown, whole
from diffaug.backends.base import Backend
from diffaug.backends.request import Generated, GenerationRequest
from diffaug.checked import checked
from diffaug.seeds import derive_seed


@checked
@dataclass(eq=False)
class RecordingBackend(Backend):
    """Replace a model in tests: record every request and return a recognisable image at once.

    The image is the source with its channels rotated and a tint that depends on prompt and seed, so
    it is easy to see which pixels are generated.

    Args:
        size: side in pixels of the answers, and of sources as transforms send them.
        requests: the requests so far, in order.
        answer: a function of a request and the usual answer, which returns another or raises.

    Example:
        >>> from diffaug import GenerationRequest, RecordingBackend
        >>> backend = RecordingBackend(size=8)
        >>> [generated] = backend.generate([GenerationRequest("sunset", seed=1)])
        >>> generated.image.shape, backend.requests[0].prompt
        (torch.Size([3, 8, 8]), 'sunset')
    """

    size: int = 64
    requests: list[GenerationRequest] = field(default_factory=list)
    answer: Callable[[GenerationRequest, Generated], Generated] | None = None

    def __post_init__(self) -> None:
        self.size = whole("size", self.size, 1, 1 << 14)
        if not isinstance(self.requests, list):
            raise TypeError(f"'requests' must be a list, got {shown(self.requests)}.")

    @property
    def fingerprint(self) -> str:
        return f"recording-{self.size}"

    @checked
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        for request in requests:
            if not isinstance(request, GenerationRequest):
                raise TypeError(f"'requests' must hold GenerationRequests, got {shown(request)}.")
        self.requests.extend(requests)
        usual = [self._answer(request) for request in requests]
        return usual if self.answer is None else list(map(self.answer, requests, usual))

    def _answer(self, request: GenerationRequest) -> Generated:
        tint = derive_seed(request.prompt, request.negative_prompt, request.strength, request.seed)
        colour = torch.tensor([tint & 255, tint >> 8 & 255, tint >> 16 & 255])
        image = torch.full((3, self.size, self.size), 128)
        if request.image is not None:
            rows = torch.arange(self.size) * request.image.shape[1] // self.size
            columns = torch.arange(self.size) * request.image.shape[2] // self.size
            image = request.image[:, rows][:, :, columns].roll(1, 0).int()
        mixed = (image + colour[:, None, None]) // 2
        return Generated(mixed.to(torch.uint8), seed=request.seed)
