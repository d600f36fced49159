"""A request does not depend on where its image lies: a GPU resizes by other arithmetic."""

import torch
from elsewhere import Elsewhere

from diffaug import PromptEdit, RecordingBackend, functional


def test_an_image_is_made_small_on_the_cpu_and_has_one_key(monkeypatch):
    edit = PromptEdit(["snowy"], backend=RecordingBackend(16))
    image = torch.randint(0, 256, (1, 3, 40, 50), dtype=torch.uint8)
    params = edit.draw(1, torch.Generator().manual_seed(0))
    [expected] = edit.requests(image, params)
    resized, resize = [], functional.resize

    def watched(pixels, size):
        resized.append(type(pixels))
        return resize(pixels, size)

    monkeypatch.setattr(functional, "resize", watched)
    [request] = edit.requests(image.as_subclass(Elsewhere), params)
    assert [torch.Tensor] == resized
    assert expected.key("model") == request.key("model")
