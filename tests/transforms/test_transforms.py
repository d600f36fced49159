"""The three building blocks: types, draws, requests, results."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from answers import CallCounting, refused
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug import (
    DiffMix,
    DiffuseMix,
    FractalBank,
    FractalBlend,
    Generated,
    HalfConcat,
    ModelSpec,
    PromptEdit,
    RecordingBackend,
    functional,
    images,
)

BANK = FractalBank(count=3, size=32)


def every_transform(**options):
    backend = RecordingBackend(size=16)
    return [
        PromptEdit(backend=backend, **options),
        HalfConcat(PromptEdit(backend=backend), **options),
        HalfConcat(v2.RandomHorizontalFlip(p=1), **options),
        FractalBlend(fractals=BANK, **options),
    ]


def test_an_image_leaves_its_device_before_it_is_resized(monkeypatch):
    """A GPU resizes by other arithmetic; keys and seeds are hashes of these pixels."""
    steps = []
    cpu, resize = torch.Tensor.cpu, functional.resize
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: (steps.append(t.dtype), cpu(t))[1])
    monkeypatch.setattr(functional, "resize", lambda *a: (steps.append("resize"), resize(*a))[1])
    shrunk = PromptEdit(backend=RecordingBackend(size=16)).shrink(torch.rand(1, 3, 24, 20))
    assert (1, 3, 16, 16) == shrunk.shape
    assert [torch.uint8, "resize"] == steps


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("make", [PromptEdit, lambda **options: DiffMix(["cat", "dog"], **options)])
@pytest.mark.filterwarnings("ignore:'p' is")
def test_an_image_is_checked_once_and_its_pixels_are_read_once_if_it_changes(monkeypatch, make, p):
    calls = []
    for name in ("check_image", "unpack"):
        real = getattr(images, name)
        monkeypatch.setattr(
            images, name, lambda image, name=name, real=real: calls.append(name) or real(image)
        )
    make(p=p, backend=RecordingBackend(size=16))((photograph(), 1))
    assert calls == (["check_image", "unpack"] if p else ["check_image"])


def photograph(height=24, width=30):
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


INPUTS = {
    "RGB": lambda: photograph(),
    "L": lambda: photograph().convert("L"),
    "P": lambda: photograph().convert("P"),
    "RGBA": lambda: photograph().convert("RGBA"),
    "uint8": lambda: torch.randint(0, 256, (3, 24, 30), dtype=torch.uint8),
    "float": lambda: torch.rand(3, 24, 30),
    "half": lambda: torch.rand(3, 24, 30).half(),
    "grey": lambda: torch.rand(1, 24, 30),
    "batch": lambda: torch.rand(5, 3, 24, 30),
    "video-like": lambda: torch.rand(2, 3, 3, 24, 30),
    "tv_tensor": lambda: tv_tensors.Image(torch.rand(3, 24, 30)),
    "one pixel": lambda: torch.rand(3, 1, 1),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("compose", [v2.Compose, v1.Compose])
@pytest.mark.parametrize("which", range(4))
def test_out_comes_the_type_size_and_dtype_that_went_in(kind, compose, which):
    image = INPUTS[kind]()
    made = compose([every_transform()[which]])(image)
    assert type(made) is type(image)
    if isinstance(image, Image.Image):
        assert (made.mode, made.size) == (image.mode, image.size)
    else:
        assert (made.shape, made.dtype, made.device) == (image.shape, image.dtype, image.device)
        assert 0 <= made.min() and made.max() <= (255 if made.dtype == torch.uint8 else 1)


@pytest.mark.parametrize("which", range(4))
def test_they_run_among_kornia_s_augmentations(which):
    import kornia.augmentation as kornia

    image, mask = torch.rand(3, 3, 24, 30), torch.rand(3, 1, 24, 30)
    sequence = kornia.AugmentationSequential(
        every_transform()[which], kornia.RandomHorizontalFlip(p=0.0), data_keys=["input", "mask"]
    )
    made, same = sequence(image, mask)
    assert made.shape == image.shape and not torch.equal(image, made)
    assert torch.equal(mask, same)


@pytest.mark.parametrize("which", range(4))
def test_nothing_but_the_image_of_a_sample_changes(which):
    boxes = tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(24, 30))
    mask = tv_tensors.Mask(torch.ones(24, 30))
    label = torch.tensor(3)
    sample = {"image": photograph(), "target": (label, [boxes, mask]), "label": 7}
    made = every_transform()[which](sample)
    assert made["target"][0] is label and made["target"][1][0] is boxes
    assert made["target"][1][1] is mask and made["label"] == 7
    assert np.any(np.asarray(made["image"]) != np.asarray(sample["image"]))


PIXELS = torch.rand(2, 3, 24, 30)
BEHIND = {
    "dict": ({"label": torch.arange(2), "pixel_values": PIXELS}, "pixel_values"),
    "dict with other keys": ({"cls": torch.arange(2), "jpg": PIXELS}, "jpg"),
    "dict of measures": ({"age": torch.rand(4), "image": PIXELS, "depth": PIXELS}, "image"),
    "tuple": ((torch.arange(2), PIXELS), 1),
    "list": ([torch.eye(2), PIXELS, "name"], 1),
    "tuple with its image first": ((PIXELS, torch.arange(2), PIXELS.clone()), 0),
}


@pytest.mark.parametrize("kind", BEHIND)
@pytest.mark.parametrize("compose", [v2.Compose, v1.Compose])
@pytest.mark.parametrize("which", range(4))
def test_an_image_is_found_behind_other_tensors(which, kind, compose):
    sample, place = BEHIND[kind]
    made = compose([every_transform()[which]])(sample)
    assert type(sample) is type(made) and len(sample) == len(made)
    for step in sample if isinstance(sample, dict) else range(len(sample)):
        if step == place:
            assert torch.Tensor is type(made[step]) and PIXELS.shape == made[step].shape
            assert not torch.equal(sample[step], made[step])
        else:
            assert sample[step] is made[step]


def test_a_marked_image_stays_marked_and_all_of_them_change():
    pixels = [tv_tensors.Image(PIXELS[0]), tv_tensors.Image(PIXELS[1])]
    made = PromptEdit(backend=RecordingBackend(16))({"label": torch.tensor(1), "a": pixels})
    assert all(isinstance(image, tv_tensors.Image) for image in made["a"])
    assert not any(torch.equal(*pair) for pair in zip(pixels, made["a"], strict=True))


@pytest.mark.parametrize(
    ("sample", "shape"),
    [
        (torch.tensor(3), r"\(\)"),
        ((np.zeros((4, 4, 3)), torch.tensor(3)), r"\(\)"),
        ((np.zeros((4, 4, 3)), torch.eye(2).long()), r"\(2, 2\)"),
    ],
)
def test_a_label_alone_is_called_a_label(sample, shape):
    message = f"got {shape}; this looks like a label. Mark the image with tv_tensors.Image, or put"
    with pytest.raises(ValueError, match=message):
        PromptEdit(backend=RecordingBackend(16))(sample)
    with pytest.raises(
        ValueError, match=r"like a label \(or like a grey image without its channel"
    ):
        PromptEdit(backend=RecordingBackend(16))(torch.rand(4, 4))


@pytest.mark.parametrize("which", range(4))
def test_what_p_passes_over_is_the_very_same_object(which):
    image = photograph().convert("P")
    assert every_transform(p=0.0)[which](image) is image


@pytest.mark.parametrize("which", range(4))
def test_the_input_is_never_changed_in_place(which):
    image = torch.rand(4, 3, 24, 30)
    before = image.clone()
    every_transform()[which](image)
    assert torch.equal(before, image)


def test_p_is_the_share_of_images_of_a_batch_that_change():
    batch = torch.zeros(400, 3, 2, 2)
    made = FractalBlend(alpha=0.5, fractals=BANK, p=0.3)(batch)
    assert 80 <= (made.flatten(1).amax(1) > 0).sum() <= 160


def test_a_batch_is_one_call_to_the_backend_and_each_image_is_drawn_for_itself():
    backend = CallCounting(size=16)
    torch.manual_seed(0)
    HalfConcat(PromptEdit(backend=backend, p=0.5), p=0.5)(torch.rand(64, 3, 8, 8))
    assert len(backend.calls) == 1 and 4 <= backend.calls[0] <= 30
    assert len({request.prompt for request in backend.requests}) > 1


def test_a_model_is_sent_the_image_as_it_is_and_its_answer_comes_out_as_it_is():
    image = torch.arange(3 * 16 * 16, dtype=torch.uint8).view(3, 16, 16)
    answer = image.flip(2).roll(1, 1)
    backend = RecordingBackend(16, answer=lambda request, usual: Generated(answer, request.seed))
    for transform in (
        PromptEdit(backend=backend),
        DiffMix(["a", "b"], p=0.5, pairs="other", gamma=0.5, backend=backend),
    ):
        sample = (image, 0) if isinstance(transform, DiffMix) else image
        outputs = [transform(sample) for _ in range(12)]
        outputs = [output[0] if isinstance(output, tuple) else output for output in outputs]
        changed = [output for output in outputs if not torch.equal(image, output)]
        assert changed and all(torch.equal(answer, output) for output in changed)
    assert all(torch.equal(image, request.image) for request in backend.requests)


def test_all_images_of_one_sample_share_a_draw():
    backend = RecordingBackend(size=16)
    for _ in range(5):
        PromptEdit(backend=backend)((photograph(), photograph()))
    prompts = [request.prompt for request in backend.requests]
    assert prompts[::2] == prompts[1::2]


def test_draws_follow_torch_s_global_seed():
    image = torch.rand(6, 3, 16, 16)
    for transform in every_transform(p=0.5):
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(transform(image))
        assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_a_generator_keeps_the_global_one_out_of_it():
    before = torch.get_rng_state()
    for transform in every_transform(p=0.5):
        draws = [transform.sample(9, torch.Generator().manual_seed(3)) for _ in range(2)]
        assert draws[0] == draws[1]
    assert torch.equal(before, torch.get_rng_state())


def test_a_second_epoch_asks_for_what_the_first_one_made():
    backend, image = RecordingBackend(size=16), photograph()
    edit = PromptEdit(["one", "two"], variants=2, backend=backend)
    for _ in range(60):
        edit(image)
    assert 4 == len(set(backend.requests))
    assert {"one", "two"} == {request.prompt for request in backend.requests}
    assert 2 == len({request.seed for request in backend.requests})


def test_without_variants_every_edit_is_fresh_and_uncached():
    backend, image = RecordingBackend(size=16), photograph()
    edit = PromptEdit(["one"], variants=None, backend=backend)
    for _ in range(20):
        edit(image)
    assert 20 == len(set(backend.requests)) and not edit.cache


def test_seeds_depend_on_content_salt_and_variant_and_not_on_the_type_of_the_image():
    image = v2.functional.pil_to_tensor(photograph())

    def seed(image, **options):
        backend = RecordingBackend(size=16)
        PromptEdit(["one"], backend=backend, **options)(image)
        return backend.requests[0].seed

    assert seed(image) == seed(photograph()) == seed(image.float() / 255)
    assert len({seed(image), seed(image.flip(-1)), seed(image, seed=1)}) == 3


@pytest.mark.parametrize(
    ("shape", "asked"), [((3, 40, 50), (16, 16)), ((3, 9, 50), (9, 16)), ((3, 4, 4), (4, 4))]
)
def test_a_source_is_shrunk_to_the_model_s_size_and_never_enlarged(shape, asked):
    backend = RecordingBackend(size=16)
    made = PromptEdit(backend=backend)(torch.rand(shape))
    assert backend.requests[0].image.shape == (3, *asked) and made.shape == shape


def test_a_refused_image_stays_what_it_was_at_full_size():
    image = torch.rand(2, 3, 40, 50)
    backend = RecordingBackend(16, answer=refused)
    assert torch.equal(image, PromptEdit(backend=backend)(image))


@pytest.mark.parametrize("mask", functional.MASKS)
def test_half_concat_joins_the_image_with_its_transformed_self(mask):
    image = torch.rand(3, 40, 50)
    made = HalfConcat(v2.RandomInvert(p=1), masks=[mask])(image)
    torch.testing.assert_close(functional.half_concat(image, 1 - image, mask), made)


def test_half_concat_leaves_out_what_the_inner_transform_passes_over():
    image = torch.rand(3, 3, 8, 8)
    half = HalfConcat(PromptEdit(backend=RecordingBackend(size=8)), masks=["left"])
    drawn = half.draw(3)
    drawn[1]["inner"] = None
    made = half.finish(image, half.backend.generate(half.requests(image, drawn)), drawn).images
    assert torch.equal(image[1], made[1]) and torch.equal(image[..., 4:], made[..., 4:])
    assert all((made[i, ..., :4] != image[i, ..., :4]).any() for i in (0, 2))


def test_half_concat_calls_any_callable_once_for_each_picked_image():
    seen = []

    def invert(image):
        seen.append(image.shape)
        return 1 - image

    HalfConcat(invert, p=0.5)(torch.rand(40, 3, 8, 9))
    assert 8 <= len(seen) <= 32 and set(seen) == {(3, 8, 9)}


def test_the_inner_transform_draws_for_each_image_and_leaves_the_global_stream_alone():
    image = torch.rand(30, 3, 8, 8)
    half = HalfConcat(v2.RandomInvert(p=0.5), masks=["left"])
    torch.manual_seed(0)
    changed = (half(image) != image).flatten(1).any(1)
    after = torch.rand(1)
    torch.manual_seed(0)
    HalfConcat(v2.Identity(), masks=["left"])(image)
    assert 5 <= changed.sum() <= 25 and torch.equal(after, torch.rand(1))


def test_the_inner_transform_s_own_p_is_kept():
    image = torch.rand(200, 3, 4, 4)
    half = HalfConcat(PromptEdit(backend=RecordingBackend(size=4), p=0.3), masks=["left"])
    assert 30 <= (half(image) != image).flatten(1).any(1).sum() <= 90


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_fractal_blend_is_the_formula(height, width, alpha):
    image = torch.full((3, height, width), 0.5)
    bank = FractalBank(count=1, size=32)
    fractal = functional.resize(bank[0], (height, width)) / 255
    made = FractalBlend(alpha, fractals=bank)(image)
    torch.testing.assert_close((1 - alpha) * image + alpha * fractal, made, atol=1e-5, rtol=0)


def test_alpha_is_drawn_from_its_range():
    draws = FractalBlend((0.1, 0.4), fractals=BANK).draw(500)
    alphas = torch.tensor([draw["alpha"] for draw in draws])
    assert 0.1 <= alphas.min() < 0.12 and 0.38 < alphas.max() <= 0.4
    assert {0, 1, 2} == {draw["fractal"] for draw in draws}
    assert all(isinstance(BANK.name(index), str) for index in range(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptEdit(p=1.2), r"'p' must be in \[0, 1\], got 1.2"),
        (lambda: FractalBlend(-0.1), r"'alpha' must be in \[0, 1\], got -0.1"),
        (lambda: FractalBlend((0.4, 0.1)), r"'alpha' must be a number or a range \(low, high\)"),
        (lambda: PromptEdit([]), "'prompts' must hold at least one string, got none"),
        (lambda: PromptEdit(["a", " "]), "'prompts' must hold non-empty strings, got ' '"),
        (lambda: PromptEdit(template="no slot"), "'template' must contain '{prompt}'"),
        (lambda: PromptEdit(variants=0), "'variants' must be at least 1, got 0"),
        (lambda: PromptEdit(backend="tinny"), "tiny"),
        (lambda: PromptEdit(backend=ModelSpec("a/b", task="translate")), "for the task edit"),
        (lambda: HalfConcat(masks="middle"), "'masks' must be one of paper.* got 'middle'"),
        (lambda: HalfConcat(masks=[]), "'masks' must hold at least one string"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_loaded(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.rand(3, 4, 4) * 3, ValueError, "before Normalize"),
        (torch.rand(4, 4), ValueError, r"got \(4, 4\)"),
        (torch.ones(3, 4, 4, dtype=torch.int32), TypeError, "torch.int32"),
        (np.zeros((4, 4, 3)), TypeError, "found no image .* v2.ToImage"),
        (tv_tensors.Video(torch.rand(2, 3, 4, 4)), TypeError, "takes images, got a Video"),
    ],
)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_wrong_image_is_one_clear_line_whether_or_not_p_picks_it(image, error, message, p):
    for transform in every_transform(p=p):
        with pytest.raises(error, match=message):
            transform(image)


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (v2.Resize((4, 4)), r"\(3, 4, 4\) of torch.float32"),
        (v2.ToDtype(torch.float64), r"\(3, 8, 8\) of torch.float64"),
        (v2.ToPILImage(), "Image"),
    ],
)
def test_an_inner_transform_that_changes_shape_or_type_is_named(transform, got):
    message = rf"must keep the image \(3, 8, 8\) of torch.float32, got {got}"
    with pytest.raises(ValueError, match=message):
        HalfConcat(transform)(torch.rand(3, 8, 8))


def test_an_empty_batch_comes_back():
    for transform in every_transform():
        assert transform(torch.rand(0, 3, 8, 8)).shape == (0, 3, 8, 8)


EDIT = "PromptEdit(prompts=('snowy',), template='{prompt}', p=1.0, variants=1, "
FRACTALS = "fractals=FractalBank(count=3, size=32, seed=0)"


@pytest.mark.parametrize(
    ("transform", "shown"),
    [
        (PromptEdit(["snowy"], backend="tiny"), f"{EDIT}backend='tiny', cache=True, seed=0)"),
        (
            FractalBlend((0.1, 0.4), fractals=BANK),
            f"FractalBlend(alpha=(0.1, 0.4), {FRACTALS}, p=1.0)",
        ),
        (
            HalfConcat(v2.RandomInvert(p=0.5), masks=["left"], p=0.3),
            "HalfConcat(transform=RandomInvert(p=0.5), masks=('left',), p=0.3)",
        ),
        (
            HalfConcat(PromptEdit(["snowy"], backend=RecordingBackend()), masks=["left"]),
            f"HalfConcat(transform={EDIT}backend=RecordingBackend, cache=True, seed=0), "
            "masks=('left',), p=1.0)",
        ),
        (
            DiffuseMix(["snowy"], masks=["left"], backend="tiny", fractals=BANK, seed=4),
            "DiffuseMix(prompts=('snowy',), recipe='paper', alpha=(0.2, 0.2), p=0.5, variants=1, "
            f"masks=('left',), {FRACTALS}, backend='tiny', cache=True, seed=4)",
        ),
    ],
)
def test_a_repr_shows_each_setting_once(transform, shown):
    assert shown == repr(transform)
    assert shown in repr(v2.Compose([transform]))


def test_transforms_travel_light_and_hold_nothing_that_was_drawn():
    for transform in [PromptEdit(backend="tiny"), HalfConcat(), FractalBlend(fractals=BANK)]:
        fresh = pickle.dumps(transform)
        assert len(fresh) < 4096
        transform.sample(3)
        if isinstance(transform, FractalBlend):
            transform(photograph())
        assert pickle.dumps(transform) == fresh
        assert repr(copy.deepcopy(transform)) == repr(transform)


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
@pytest.mark.parametrize("masks", ["paper", "release", "genmix"])
@pytest.mark.parametrize("kind", ["RGB", "I;16", torch.uint8, torch.float32, torch.float16])
def test_the_default_dtype_changes_no_pixel(default, masks, kind):
    recipe = "paper" if masks == "genmix" else masks
    mix = DiffuseMix(p=1, recipe=recipe, masks=masks, fractals=BANK, backend=RecordingBackend(16))
    image = photograph(41, 45)
    if isinstance(kind, torch.dtype):
        image = v2.functional.to_dtype(v2.functional.to_image(image), kind, scale=True)
    elif kind == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype("<u2") * 257)
    before = torch.get_default_dtype()
    for drawn in [mix.sample(1) for _ in range(4)]:
        expected, _ = mix.augment(image, drawn)
        try:
            torch.set_default_dtype(default)
            result, _ = mix.augment(image, drawn)
        finally:
            torch.set_default_dtype(before)
        assert np.array_equal(np.asarray(expected), np.asarray(result))


def test_a_result_changed_in_place_changes_nothing_that_a_backend_or_a_caller_keeps():
    class Keeps(RecordingBackend):
        def __init__(self, fallback):
            super().__init__()
            self.fallback, self.kept = fallback, []

        def generate(self, requests):
            answers = [replace(one, fallback=self.fallback) for one in super().generate(requests)]
            self.kept += [answer.image for answer in answers]
            return answers

    for fallback in (False, True):
        backend = Keeps(fallback)
        image = torch.randint(0, 256, (3, 16, 16)).to(torch.uint8)
        before = image.clone()
        result = PromptEdit(["snowy"], backend=backend)(image)
        kept = backend.kept[0].clone()
        result.add_(1)
        assert before.equal(image) and kept.equal(backend.kept[0])
