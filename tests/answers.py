"""Answers of a ``RecordingBackend`` that behaves as models sometimes do."""

from diffaug import Generated, GenerationRequest
from diffaug.errors import RefusedError


def refused(request: GenerationRequest, usual: Generated) -> Generated:
    """Return the source, as the model was shown it, marked as a fallback."""
    return Generated(request.image, request.seed, 4, fallback=True)


def refuse(word: str, *, outright: bool = False):
    """Refuse the prompts with a word in them; ``outright``: with nothing instead of an image."""

    def answer(request: GenerationRequest, usual: Generated) -> Generated:
        if word not in request.prompt:
            return usual
        if outright:
            raise RefusedError("every attempt was blank")
        return refused(request, usual)

    return answer
