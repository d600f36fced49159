"""The arithmetic against the papers' formulas, written out plainly here."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pil_photos import in_mode, make_photo

from diffaug import functional, images, pil_modes
from diffaug.functional import MASK_SETS, MASKS, blend, half_concat, half_mask, is_blank, resize

sides = st.integers(1, 70)
masks = st.sampled_from(MASKS)


def random_pair(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator).to(torch.uint8)


def check_levels(exact, result, rounding):
    """Hold levels to float64 ones; within 2e-4 of where the level changes, either side will do."""
    assert result.dtype == torch.uint8
    # 119.9999 is 120 but for the last bits.
    shifted = exact + (0.5 if rounding == "round" else 1e-3)
    apart = result.double() - shifted.floor()
    doubtful = (shifted - shifted.round()).abs() < 2e-4
    assert not apart[~doubtful].any() and not apart.abs().gt(1).any()


def oracle_mask(name, height, width):
    """A mask as in the papers, from full-size numpy arrays and plain loops."""
    mask = np.zeros((height, width))
    side = name.removeprefix("soft-")
    for y in range(height):
        for x in range(width):
            if side == "circle":
                radius = np.sqrt(height * width / 2 / np.pi)
                distance = np.hypot(y + 0.5 - height / 2, x + 0.5 - width / 2)
                mask[y, x] = np.clip((radius - distance) / min(20, height, width) + 0.5, 0, 1)
                continue
            position, length = (x, width) if side in ("left", "right") else (y, height)
            if name == side:
                weight = float(position >= length // 2)
            elif length == 1:
                weight = 0.5
            else:
                ramp = np.linspace(0, 1, min(20, length))
                start = length // 2 - len(ramp) // 2
                padded = np.concatenate([np.zeros(start), ramp, np.ones(length)])
                weight = padded[position]
            mask[y, x] = 1 - weight if side in ("left", "top") else weight
    return torch.from_numpy(mask)


@given(masks, sides, sides)
def test_masks_agree_with_the_papers(name, height, width):
    result = half_mask(name, (height, width)).expand(height, width)
    torch.testing.assert_close(oracle_mask(name, height, width), result.double(), atol=1e-5, rtol=0)


@given(sides, sides)
def test_opposite_halves_are_complementary(height, width):
    for first, second in [("left", "right"), ("top", "bottom")]:
        for kind in ("", "soft-"):
            masks = [half_mask(kind + side, (height, width)) for side in (first, second)]
            both = masks[0] + masks[1]
            torch.testing.assert_close(torch.ones_like(both), both)


def test_the_sets_are_those_of_the_sources():
    assert [4, 2, 5] == [len(MASK_SETS[name]) for name in ("paper", "release", "genmix")]
    halves = [half_mask(name, (256, 256)).expand(256, 256).mean().item() for name in MASKS]
    assert halves == pytest.approx([0.5] * len(MASKS), abs=0.01)


@given(masks, sides, sides, st.sampled_from(["round", "truncate"]))
def test_half_concat_agrees_with_full_size_float64(name, height, width, rounding):
    image, other = random_pair(height, width)
    weights = oracle_mask(name, height, width)
    exact = image.double() * (1 - weights) + other.double() * weights
    check_levels(exact, half_concat(image, other, name, rounding=rounding), rounding)


@given(masks, sides, sides)
def test_half_concat_of_floats_does_not_leave_their_dtype(name, height, width):
    image, other = random_pair(height, width).double() / 255
    weights = oracle_mask(name, height, width)
    torch.testing.assert_close(
        image * (1 - weights) + other * weights, half_concat(image, other, name), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("rounding", ["round", "truncate"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.7, 0.9999, 1.0])
def test_every_pair_of_levels_is_blended_to_the_exact_level(alpha, rounding):
    image, other = torch.cartesian_prod(*[torch.arange(256)] * 2).to(torch.uint8).T
    result = blend(image.view(1, 256, 256), other.view(1, 256, 256), alpha, rounding=rounding)
    exact = ((1 - alpha) * image.double() + alpha * other.double()).view(1, 256, 256)
    check_levels(exact, result, rounding)
    if alpha in (0.0, 0.25, 0.5, 1.0):  # exact in float32: halves go to the even level
        expected = exact.round() if rounding == "round" else exact.floor()
        assert torch.equal(expected, result.double())


@pytest.mark.parametrize("shape", [(3, 700, 300), (40, 3, 64, 64), (2, 2, 3, 300, 301), (1, 1, 1)])
@pytest.mark.parametrize("weights", [1, None])
def test_strips_join_without_a_trace(shape, weights):
    generator = torch.Generator().manual_seed(0)
    image, other = torch.randint(0, 256, (2, *shape), generator=generator).to(torch.uint8)
    alpha = torch.rand(weights or shape[:-3], generator=generator)
    whole = torch.lerp(image.float(), other.float(), alpha.view(*alpha.shape, 1, 1, 1))
    expected = whole.view(shape).round().to(torch.uint8)
    assert torch.equal(expected, blend(image, other, alpha))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_result_can_be_written_over_the_image(memory):
    image, other = random_pair(30, 41)
    for function, how in [(blend, 0.3), *((half_concat, name) for name in MASKS)]:
        expected = function(image[None], other[None], how)
        target = image[None].contiguous(memory_format=memory)
        assert function(target, other[None], how, out=target) is target
        assert torch.equal(expected, target)


@pytest.mark.parametrize("name", MASKS)
def test_gradients_reach_both_images(name):
    image, other = (torch.full((3, 30, 31), 0.5, requires_grad=True) for _ in range(2))
    blend(half_concat(image, other, name), torch.zeros(3, 30, 31), 0.2).sum().backward()
    torch.testing.assert_close(torch.full((3, 30, 31), 0.8), image.grad + other.grad)
    assert image.grad.mean() == pytest.approx(0.4, abs=0.03)


def test_a_hard_half_is_copied_bit_for_bit():
    image, other = random_pair(9, 7)
    result = half_concat(image, other, "right")
    assert torch.equal(image[..., :3], result[..., :3])
    assert torch.equal(other[..., 3:], result[..., 3:])


@given(sides, sides, st.floats(0, 1), st.sampled_from(["round", "truncate"]))
def test_blend_agrees_with_float64(height, width, alpha, rounding):
    image, other = random_pair(height, width)
    exact = (1 - alpha) * image.double() + alpha * other.double()
    check_levels(exact, blend(image, other, alpha, rounding=rounding), rounding)


def test_whole_results_lose_no_level_to_truncation():
    image, other = torch.full((2, 1, 1, 1), 100, dtype=torch.uint8)
    for alpha in torch.linspace(0, 1, 101).tolist():
        assert blend(image, other, alpha, rounding="truncate").item() == 100


def test_one_weight_for_each_image():
    image, other = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    result = blend(image, other, torch.tensor([0.0, 0.25, 1.0]))
    assert result[:, 0, 0, 0].tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: blend(a, b, 1.4), r"'alpha' must be in \[0, 1\], got 1.4"),
        (lambda a, b: blend(a, b, torch.rand(2)), r"number or of shape \(\), .* got \(2,\)"),
        (lambda a, b: blend(a, b, torch.nan), r"'alpha' must be in \[0, 1\], got nan"),
        (lambda a, b: blend(a, b[:, :1], 0.5), "'other' must be like the image"),
        (lambda a, b: blend(a, b.float(), 0.5), "got .* of torch.float32"),
        (lambda a, b: blend(a.int(), b, 0.5), "'image' must be uint8 or floating"),
        (lambda a, b: blend(a, b, 0.5, rounding="up"), "'rounding' must be round or truncate"),
        (lambda a, b: half_concat(a[0], b[0], "left"), r"shape \(..., C, H, W\), got \(4, 4\)"),
        (lambda a, b: half_concat(a, b, "middle"), "'mask' must be one of left, .* got 'middle'"),
        (lambda a, b: half_mask("left", (0, 4)), r"at least \(1, 1\), got \(0, 4\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*random_pair(4, 4))


def test_blank_is_dark_output_from_a_source_that_is_not():
    black, bright = torch.zeros(3, 8, 8, dtype=torch.uint8), random_pair(8, 8)[0]
    white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    assert is_blank(black) and is_blank(black, bright)
    assert not is_blank(black, black)
    assert not is_blank(white) and not is_blank(white, bright)  # the released code drops these


@contextmanager
def default(switch, value):
    """Set one of torch's switches for a while."""
    setters = {
        "dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
    }
    contexts = {
        # Once torch 2.6 has had a default device, it cannot say that there is none.
        "device": torch.device,
        "inference": torch.inference_mode,
        "grad": torch.set_grad_enabled,
    }
    if switch in contexts:
        with contexts[switch](value):
            yield
        return
    get, put = setters[switch]
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


SWITCHES = [
    *(("dtype", dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)),
    *(("device", "meta"), ("deterministic", True), ("inference", True), ("grad", False)),
]


def all_results(image, other):
    """Return what every function makes of two images, by every mask, rounding and weight."""
    yield from (half_mask(name, (image.shape[-2], image.shape[-1])) for name in MASKS)
    for rounding in ("round", "truncate"):
        yield from (half_concat(image, other, name, rounding=rounding) for name in MASKS)
        yield blend(image, other, 0.2, rounding=rounding)
        alphas = torch.tensor([0.1, 1 / 3], dtype=torch.float32, device="cpu")
        yield blend(image, other, alphas, rounding=rounding)
    yield resize(image, (5, 9))
    yield images.to_uint8(image)
    yield images.to_dtype(images.to_uint8(image), like=image)
    yield pil_modes.luma(image)


@pytest.mark.parametrize(("switch", "value"), SWITCHES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.float32, torch.float16])
def test_no_switch_of_torch_changes_a_pixel(switch, value, dtype):
    side = 150 if dtype == torch.uint8 else 41  # the larger ones are blended strip by strip
    levels = random_pair(side, side)
    image, other = levels if dtype == torch.uint8 else levels.to(dtype) / 255
    image, other = (pixels.expand(2, -1, -1, -1).clone() for pixels in (image, other))
    expected = list(all_results(image, other))
    with default(switch, value):
        results = list(all_results(image, other))
    for before, after in zip(expected, results, strict=True):
        if after.device.type == "meta":  # a mask is made on the default device, as asked for
            continue
        assert before.dtype == after.dtype
        assert torch.equal(before, after.clone())


@pytest.mark.parametrize(("switch", "value"), SWITCHES)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBa", "CMYK", "I;16"])
def test_no_switch_of_torch_changes_a_pil_image(switch, value, mode):
    image = in_mode(make_photo(), mode)

    def edited():
        pixels, restore = images.unpack(image)
        return np.asarray(restore(half_concat(pixels, pixels.flip(-1), "soft-right")))

    expected = edited()
    with default(switch, value):
        assert np.array_equal(expected, edited())


@given(sides, sides, st.integers(0, 3))
def test_arithmetic_never_touches_the_global_generator(height, width, seed):
    before = torch.get_rng_state()
    image, other = random_pair(height, width, seed)
    for name in MASKS:
        half_concat(image, other, name)
    resize(blend(image, other, 0.2), (5, 9))
    assert torch.equal(before, torch.get_rng_state())


def test_resize_gives_the_asked_size_and_leaves_an_equal_one_alone():
    image = random_pair(9, 7)[0]
    assert resize(image, (20, 3)).shape == (3, 20, 3)
    assert resize(image, (9, 7)) is image


def test_resize_to_one_pixel_is_the_mean():
    image = random_pair(9, 7)[0]
    mean = image.float().mean((1, 2)).round()
    assert (resize(image, (1, 1))[:, 0, 0].float() - mean).abs().max() <= 8


def test_every_mask_of_a_set_has_a_name():
    assert set(functional.MASKS) == {name for names in MASK_SETS.values() for name in names}
