"""A model works at a square, or at about the shape of each image."""

import math
from dataclasses import replace

import pytest
import torch
from contracts import check_backend
from hypothesis import example, given
from hypothesis import strategies as st
from image_folders import picture, save_photos
from PIL import Image
from tiny_pipelines import make_request, save_xl_pipeline, tiny_spec

from diffaug import DiffusersBackend, ModelSpec, PromptEdit, augment_folder
from diffaug.backends.request import GenerationRequest

SQUARE, SHAPED = (ModelSpec("org/name", size=512, keep_aspect=keep) for keep in (False, True))


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        ((300, 300), (512, 512)),
        ((400, 1200), (296, 888)),
        ((1200, 400), (888, 296)),
        ((375, 500), (440, 592)),
        ((100, 1000), (256, 1024)),  # no longer than four to one
    ],
)
def test_a_working_shape_has_the_pixels_of_the_square_in_sides_of_8(image, shape):
    assert shape == SHAPED.working_shape(*image)
    assert (512, 512) == SQUARE.working_shape(*image)
    assert math.prod(shape) == pytest.approx(512 * 512, rel=0.02)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([16, 64, 256, 512, 1024]))
@example(38, 114, 64)
def test_an_image_that_was_shrunk_has_the_same_working_shape(height, width, size):
    spec = ModelSpec("org/name", size=size, keep_aspect=True)
    rows, columns = spec.working_shape(height, width)
    assert 0 == rows % 8 == columns % 8
    assert (rows, columns) == spec.working_shape(min(height, rows), min(width, columns))
    assert (columns, rows) == spec.working_shape(width, height)


def test_only_a_spec_that_keeps_the_aspect_has_another_fingerprint():
    assert "keep_aspect" not in SQUARE.identity()
    assert SQUARE.fingerprint != SHAPED.fingerprint
    with pytest.raises(TypeError, match="'keep_aspect' must be True or False, got 1"):
        replace(SQUARE, keep_aspect=1)


@pytest.mark.parametrize("task", ["edit", "translate"])
def test_the_backend_keeps_the_contract_with_images_of_many_shapes(task):
    sizes = [(24, 8), (8, 24), (16, 16), (9, 40), (25, 8)]
    requests = [
        make_request(task, n, image=torch.randint(0, 256, (3, *size), dtype=torch.uint8))
        for n, size in enumerate(sizes)
    ]
    spec = tiny_spec(task, pad=True, keep_aspect=True, size=32)
    check_backend(lambda: DiffusersBackend(spec), requests, bad={}, exact=True)
    made = DiffusersBackend(spec).generate(requests)
    shapes = [tuple(one.image.shape[1:]) for one in made]
    assert shapes == [spec.working_shape(*size) for size in sizes]
    assert shapes[:3] == [(56, 16), (16, 56), (32, 32)]


def test_a_batch_holds_images_of_one_shape():
    backend = DiffusersBackend(tiny_spec("edit", keep_aspect=True, size=32))
    pipe, seen = backend._loaded(), []
    pipe.unet.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    wide, tall = (torch.zeros(3, *shape, dtype=torch.uint8) for shape in ((8, 24), (24, 8)))
    backend.generate([make_request(n=n, image=i) for n, i in enumerate([wide, tall, wide, tall])])
    assert {(8, 28), (28, 8)} == set(seen)
    assert 2 * backend.spec.steps == len(seen)


def test_a_wide_photograph_is_edited_at_its_shape_and_comes_back_in_its_size(tmp_path):
    backend = DiffusersBackend(tiny_spec("edit", keep_aspect=True, size=32))
    edit = PromptEdit(["snowy"], backend=backend.spec, cache=False)
    photo = picture(1, 100, 300)
    [request] = edit.requests(photo[None], [{"prompt": "snowy", "variant": 0}])
    assert (3, 16, 56) == tuple(request.image.shape)
    assert isinstance(request, GenerationRequest)
    assert photo.shape == edit(photo).shape
    source = save_photos(tmp_path / "photos", ["cat/1.png"], 100, 300)
    augment_folder(source, tmp_path / "set", edit, per_image=1)
    [file] = (tmp_path / "set").rglob("*.jpg")
    assert (300, 100) == Image.open(file).size


def test_the_larger_sibling_works_at_other_shapes(tmp_path):
    spec = replace(
        tiny_spec("translate", keep_aspect=True, size=32),
        model=str(save_xl_pipeline(tmp_path / "xl", "translate")),
    )
    image = torch.zeros(3, 8, 24, dtype=torch.uint8)
    [made] = DiffusersBackend(spec).generate([make_request("translate", image=image)])
    assert (3, 16, 56) == tuple(made.image.shape)
