"""DiffuseMix against the paper, the released code, and its three stages in a row."""

import pickle

import pytest
import torch
from torchvision.transforms import v2

from diffaug import DiffuseMix, FractalBank, FractalBlend, HalfConcat, PromptEdit, RecordingBackend
from diffaug.functional import MASK_SETS
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

BANK = FractalBank(count=4, size=32)


def mixer(**options):
    return DiffuseMix(**{"p": 1.0, "fractals": BANK, "backend": RecordingBackend(16), **options})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_it_is_the_three_transforms_in_a_row_with_the_same_draws(dtype):
    image = torch.randint(0, 256, (6, 3, 33, 47)).to(torch.uint8)
    image = image if dtype == torch.uint8 else image / 255
    mix, backend = mixer(), RecordingBackend(16)
    drawn = mix.draw(6, torch.Generator().manual_seed(1))
    made = mix.finish(image, backend.generate(mix.requests(image, drawn)), drawn).images

    edit = PromptEdit(template="A transformed version of image into {prompt}", backend=backend)
    half, blend = HalfConcat(edit), FractalBlend(0.2, fractals=BANK)
    edits = backend.generate(half.requests(image, drawn))
    in_a_row = blend.finish(half.finish(image, edits, drawn).images, [], drawn).images
    assert torch.equal(in_a_row, made)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_finishing_leaves_image_and_edits_as_they_were(dtype, layout):
    image = (torch.rand(3, 3, 40, 33) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    image = image.contiguous(memory_format=layout)
    mix = mixer(recipe="release", alpha=(0.1, 0.4))
    drawn = mix.draw(3)
    generated = RecordingBackend(33).generate(mix.requests(image, drawn))
    before = [image.clone(), *(made.image.clone() for made in generated)]
    first = mix.finish(image, generated, drawn).images
    assert torch.equal(first, mix.finish(image.contiguous(), generated, drawn).images)
    for then, now in zip(before, [image, *(made.image for made in generated)], strict=True):
        assert torch.equal(then, now)


@pytest.mark.parametrize("recipe", ["paper", "release"])
def test_every_pixel_is_the_formula(recipe):
    image = torch.randint(0, 256, (40, 3, 64, 64)).to(torch.uint8)
    mix = mixer(recipe=recipe)
    drawn = mix.draw(40)
    generated = RecordingBackend(64).generate(mix.requests(image, drawn))
    made = mix.finish(image, generated, drawn).images
    for source, edit, draw, result in zip(image, generated, drawn, made, strict=True):
        weight = torch.zeros(64, 64, dtype=torch.float64)
        if recipe == "paper":
            half = {"left": (slice(None), slice(0, 32)), "right": (slice(None), slice(32, 64))}
            half |= {
                name: half[side][::-1] for name, side in (("top", "left"), ("bottom", "right"))
            }
            weight[half[draw["mask"]]] = 1
        else:
            ramp = torch.linspace(0, 1, 20, dtype=torch.float64)
            line = torch.cat([torch.zeros(22), ramp, torch.ones(22)]).double()
            weight = line.expand(64, 64) if draw["mask"] == "soft-right" else line.expand(64, 64).T
        joined = source.double() * (1 - weight) + edit.image.double() * weight
        cast = torch.round if recipe == "paper" else torch.floor
        fractal = v2.functional.resize(
            BANK[draw["fractal"]], [64, 64], v2.InterpolationMode.BICUBIC, antialias=True
        )
        exact = cast(cast(joined + 1e-3) * 0.8 + fractal.double() * 0.2 + 1e-3)
        assert (result.double() - exact).abs().max() <= 1
        assert (result.double() != exact).double().mean() < 0.01


def test_the_recipes_are_those_of_methods():
    paper, release = mixer(), mixer(recipe="release")
    assert ("left", "right", "top", "bottom") == paper.concat.masks
    assert ("soft-right", "soft-bottom") == release.concat.masks
    assert "A transformed version of image into {prompt}" == paper.edit.template
    assert "{prompt}" == release.edit.template
    assert ("round", "truncate") == (paper.blend.rounding, release.blend.rounding)
    assert (1, 9) == (paper.copies, release.copies)


def test_the_release_goes_through_every_prompt_of_every_image():
    generator = torch.Generator().manual_seed(0)
    release = mixer(recipe="release")
    prompts = [release.draw_copy(copy, generator)["inner"]["prompt"] for copy in range(9)]
    assert list(DIFFUSEMIX_PROMPTS) == prompts


def test_mask_fractal_and_prompt_are_drawn_afresh_over_the_same_edits():
    backend, image = RecordingBackend(16), torch.rand(3, 20, 20)
    mix = mixer(prompts=["a", "b"], backend=backend)
    made = [mix(image) for _ in range(40)]
    assert 2 == len(set(backend.requests))
    assert len({result.numpy().tobytes() for result in made}) > 15


def test_the_model_is_told_the_recipe_s_sentence():
    for recipe, sentence in [
        ("paper", "A transformed version of image into Autumn"),
        ("release", "Autumn"),
    ]:
        backend = RecordingBackend(16)
        mixer(prompts=["Autumn"], recipe=recipe, backend=backend)(torch.rand(3, 20, 20))
        assert sentence == backend.requests[0].prompt


def test_p_passes_images_over():
    batch = torch.rand(200, 3, 8, 8)
    changed = (mixer(p=0.5)(batch) != batch).flatten(1).any(1)
    assert 70 <= changed.sum() <= 130


def test_stages_end_in_the_result():
    image, mix = torch.rand(2, 3, 20, 30), mixer()
    drawn = mix.draw(2)
    generated = mix.live_backend().generate(mix.requests(image, drawn))
    stages = mix.stages(image, generated, drawn)
    assert ["edit", "halves joined", "fractal", "result"] == list(stages)
    assert torch.equal(mix.finish(image, generated, drawn).images, stages["result"])
    assert {stage.shape for stage in stages.values()} == {image.shape}


def test_what_was_drawn_is_described_in_plain_values():
    mix = mixer()
    described = mix.describe(mix.draw(1)[0])
    assert {"prompt", "variant", "mask", "fractal", "alpha"} == set(described)
    assert described["fractal"].startswith("fractal")


def test_it_pickles_within_4_kb():
    assert len(pickle.dumps(DiffuseMix(backend="tiny"))) < 4096


def test_recipe_and_masks_are_found_however_they_are_spelt():
    mix = DiffuseMix(recipe="Release", masks=["GENMIX", "Left"], backend=RecordingBackend())
    assert "release" == mix.recipe
    assert (*MASK_SETS["genmix"], "left") == mix.concat.masks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "poem"}, "'recipe' must be one of paper, release, got 'poem'"),
        ({"alpha": 2}, r"'alpha' must be in \[0, 1\], got 2"),
        ({"p": -1}, r"'p' must be in \[0, 1\], got -1"),
        ({"masks": "diagonal"}, "got 'diagonal'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        mixer(**options)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (DIFFUSEMIX_PROMPTS, {2: 0.06, 5: 0.20, 10: 0.40, 30: 0.81}),
        (["a", "b"], {2: 0.25, 5: 0.68}),
    ],
)
def test_the_cache_has_as_many_of_an_epoch_s_edits_as_the_docs_say(prompts, expected):
    mix = DiffuseMix(prompts, fractals=FractalBank(count=1, size=16), backend=RecordingBackend())
    generator, made = torch.Generator().manual_seed(0), set()
    for epoch in range(1, max(expected) + 1):
        drawn = [params and params["inner"]["prompt"] for params in mix.sample(3000, generator)]
        asked = {(image, prompt) for image, prompt in enumerate(drawn) if prompt}
        if epoch in expected:
            assert len(asked & made) / len(asked) == pytest.approx(expected[epoch], abs=0.03)
        made |= asked
