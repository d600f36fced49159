"""PIL images of every mode: what a transform does not generate stays as the caller has it."""

import operator  # noqa: F401  (an advice names it)
import pickle
import re

import numpy as np
import pytest
import torch
from elsewhere import OnMps, play_mps
from PIL import ExifTags, Image
from pil_photos import MODES, in_mode, make_photo
from torchvision.transforms import v2

from diffaug import (
    DiffuseMix,
    FractalBank,
    FractalBlend,
    HalfConcat,
    RecordingBackend,
    images,
    pil_modes,
)
from diffaug.transforms.prompt_edit import PromptEdit

DEEP = ["I", "I;16", "I;16B", "I;16L", "I;16N"]
COLOURS = ["CMYK", "YCbCr", "HSV", "LAB"]


def half(p=1.0):
    """Return a transform that leaves columns 0 to 14 of 30 as they are."""
    edit = PromptEdit(["snowy"], backend=RecordingBackend())
    return HalfConcat(edit, masks=["right"], p=p)


def advised(image, message):
    """Return the transform that the error about an image says to apply first."""
    with pytest.raises(ValueError, match=message) as caught:
        half()(image)
    [steps] = re.findall(
        r"apply (.*) first, if .* (?:is|are) (?:black and )?white", str(caught.value)
    )
    return eval(f"v2.Compose([{steps}])")


def colours(image):
    """Return what an image with a palette shows, with alpha; the pixels of others as they are."""
    return np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)


@pytest.mark.parametrize("mode", MODES)
def test_the_kept_half_of_any_mode_is_equal_to_the_last_bit(mode):
    image = in_mode(make_photo(), mode)
    result = half()(image)
    assert (image.mode, image.size) == (result.mode, result.size)
    for before, after in [map(np.asarray, (image, result)), map(colours, (image, result))]:
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert np.array_equal(before[:, :15], after[:, :15])
        assert not np.array_equal(before[:, 15:], after[:, 15:])  # this half was generated


@pytest.mark.parametrize("mode", MODES)
def test_a_blend_of_weight_zero_changes_no_bit(mode):
    image = in_mode(make_photo(), mode)
    result = FractalBlend(alpha=0, fractals=FractalBank(2, 16))(image)
    assert image.mode == result.mode
    assert np.array_equal(np.asarray(image), np.asarray(result))
    assert np.array_equal(colours(image), colours(result))


@pytest.mark.parametrize(
    "mode", [mode for mode in MODES if mode[0] not in "1P" and mode[-1] != "a"]
)
def test_new_colours_are_as_near_as_the_mode_allows(mode):
    pixels, restore = images.unpack(in_mode(make_photo(), mode))
    new = (images.to_uint8(pixels) // 2 + 60).float().div(255)  # no pixel keeps its value
    result = restore(new if pixels.is_floating_point() else images.to_uint8(new))
    again = images.to_uint8(images.unpack(result)[0]).float()
    expected = new if mode in ("RGB", "RGBA", "RGBX", *COLOURS) else pil_modes.luma(new)
    assert (again - expected * 255).abs().mean() < (3 if mode in ("HSV", "YCbCr") else 1.5)


def test_the_grey_of_colours_on_mps_is_the_same_and_stays_there(monkeypatch):
    play_mps(monkeypatch)
    pixels = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    grey = pil_modes.luma(pixels.as_subclass(OnMps))
    assert isinstance(grey, OnMps)
    assert torch.equal(pil_modes.luma(pixels), grey.cpu())


def test_one_bit_has_greys_as_patterns():
    pixels, restore = images.unpack(in_mode(make_photo(), "1"))
    result = restore(torch.full_like(pixels, 100))
    assert 100 / 255 == pytest.approx(
        float(images.unpack(result)[0].gt(0).float().mean()), abs=0.05
    )


def test_the_alpha_channel_stays_and_so_does_a_fourth_byte():
    for mode in ("LA", "RGBA", "RGBX", "La", "RGBa", "PA", "P;alpha", "P;alphas"):
        image = in_mode(make_photo(), mode)
        result = FractalBlend(alpha=1, fractals=FractalBank(2, 16))(image)
        assert np.array_equal(colours(image)[..., -1], colours(result)[..., -1])
        assert not np.array_equal(colours(image), colours(result))


def test_a_palette_has_room_for_new_colours_where_the_kept_part_does_not_use_all():
    image = Image.new("P", (30, 21))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (15, 0, 30, 21))
    pixels, restore = images.unpack(image)
    new = torch.from_numpy(np.array(make_photo())).permute(2, 0, 1)[None]
    result = restore(torch.cat([pixels[..., :15], new[..., 15:]], -1))
    assert (colours(result)[:, :15] == [255, 0, 0, 255]).all()
    apart = colours(result)[:, 15:, :3].astype(int) - np.asarray(make_photo())[:, 15:]
    assert np.abs(apart).mean() < 4


def test_a_full_palette_gives_the_nearest_of_its_colours():
    """All 256 colours are kept in the left half, so the right half has no others."""
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(2, 1).T.copy())
    image.putpalette([level for level in range(256) for _ in range(3)])
    for transparency in (None, 7, bytes([255, 9] * 128)):
        if transparency is not None:
            image.info["transparency"] = transparency
        pixels, restore = images.unpack(image)
        pixels[..., 16:, :] = pixels[..., 16:, :] // 2 + 64
        before, after = colours(image), colours(restore(pixels))
        assert np.array_equal(before[:16], after[:16])
        assert np.array_equal(before[..., 3], after[..., 3])
        visible = before[16:, :, 3] > 0
        apart = after[16:, :, 0].astype(int) - pixels[0, 0, 16:].numpy()
        assert np.abs(apart)[visible].max() <= 4


def test_a_palette_with_alpha_in_its_colours_keeps_both():
    image = Image.new("P", (4, 2))
    image.putpalette([255, 0, 0, 9, 0, 0, 255, 255], "RGBA")
    image.paste(1, (2, 0, 4, 2))
    pixels, restore = images.unpack(image)
    result = restore(torch.cat([pixels[..., :2], 100 + 0 * pixels[..., 2:]], -1))
    assert [[255, 0, 0, 9]] * 2 + [[100, 100, 100, 255]] * 2 == colours(result)[0].tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P"])
def test_a_transform_that_writes_over_its_pixels_is_no_less_seen(mode):
    image = in_mode(make_photo(), mode)
    pixels, restore = images.unpack(image)
    inverted = restore(pixels.bitwise_not_() if pixels.is_contiguous() else ~pixels)
    expected = 255 - images.unpack(image)[0].int()
    assert (images.unpack(inverted)[0].int() - expected).abs().float().mean() < 1.5


def test_a_tag_that_tells_how_to_turn_the_image_stays_with_it():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = make_photo()
    image.info["exif"] = exif.tobytes()
    for p in (0, 1):
        assert 6 == half(p)(image).getexif()[ExifTags.Base.Orientation]


def test_a_palette_with_transparency_raises_no_warning(recwarn):
    for mode in ("P;alpha", "P;alphas", "PA"):
        half()(in_mode(make_photo(), mode))
    assert [] == list(recwarn)


@pytest.mark.parametrize("mode", DEEP)
def test_every_level_of_16_bits_comes_back(mode):
    levels = np.arange(65536).reshape(256, 256)
    kind = {"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (256, 256), levels.astype(kind).tobytes())
    pixels, restore = images.unpack(image)
    assert np.array_equal(levels, np.asarray(restore(pixels)))
    # The model is shown the level that is nearest.
    assert torch.equal(
        torch.from_numpy(levels).add(128).div(257, rounding_mode="floor").to(torch.uint8),
        images.to_uint8(pixels)[0, 2],
    )


def test_soft_seams_and_fractals_keep_what_lies_beyond_them_in_16_bits():
    image = in_mode(make_photo(30, 64), "I;16")
    edit = {"prompts": ["snowy"], "backend": RecordingBackend(), "fractals": FractalBank(2, 16)}
    mix = DiffuseMix(masks="soft-right", alpha=0, p=1, **edit)
    before, after = np.asarray(image), np.asarray(mix(image))
    assert np.array_equal(before[:, :22], after[:, :22])
    assert len(np.unique(after[:, 33:])) > 256  # the other half is made of more than 8 bits


@pytest.mark.parametrize("mode", DEEP)
@pytest.mark.parametrize("white", [255, 1023, 4095, 8191])
def test_a_deep_image_that_uses_little_of_its_range_is_refused_and_the_advice_helps(mode, white):
    image = in_mode(make_photo(), mode, white)
    with pytest.raises(
        ValueError, match=f"range of its 16 bits, got no level above {white}; apply"
    ):
        half()(image)
    try:
        half()(image)
    except ValueError as error:
        [steps] = re.findall(r"apply (.*) first, if 0 is black and (?:.*) is white", str(error))
    first = eval(f"v2.Compose([{steps}])")
    assert pickle.loads(pickle.dumps(first))(image).shape == (1, 21, 30)  # workers can have it
    result = v2.Compose([first, half()])(image)
    before = np.asarray(image)[:, :15].astype(np.int64)
    assert np.array_equal(before, (result[0, :, :15].double() * white).round().numpy())
    assert 1.0 == result.max() and result[0, :, 15:].max() > 0.2  # neither half is black


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([[0, 70_000]], r"got levels up to 70000; apply .*v2.Normalize\(\[0\], \[131071\]\) first"),
        ([[-5, 60_000]], r"got levels from -5 to 60000; apply .*\(\[-5\], \[65540\]\) first"),
    ],
)
def test_levels_that_16_bits_cannot_hold_are_refused(levels, message):
    image = Image.fromarray(np.array(levels, np.int32))
    assert v2.Compose([advised(image, message), half()])(image).shape == (1, 1, 2)


def test_a_black_deep_image_is_black():
    assert 0 == images.unpack(Image.new("I;16", (4, 4)))[0].max()
    assert 1 == images.check_image(Image.new("I;16", (4, 4)))


def test_floats_of_unknown_range_are_refused_and_the_advice_helps():
    image = Image.fromarray(np.linspace(-3, 8, 64, dtype=np.float32).reshape(8, 8))
    first = advised(image, "mode F, whose range is unknown, got -3.0 to 8.0; apply")
    result = v2.Compose([first, half()])(image)
    expected = (np.asarray(image)[:, :4] + 3) / 11
    assert np.allclose(expected, result[0, :, :4].numpy(), atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_to_be_replaced(value):
    with pytest.raises(ValueError, match="mode F, .*; replace the values in it that are no numb"):
        half()(Image.fromarray(np.array([[value, 1.0]], np.float32)))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16", "F"])
def test_an_image_without_a_pixel_is_refused(mode):
    with pytest.raises(ValueError, match=r"at least one pixel, got size \(0, 5\)"):
        half()(Image.new(mode, (0, 5)))


def test_a_palette_of_no_colour_at_all_is_kept_too():
    image = Image.new("P", (8, 4))
    image.paste(200, (0, 0, 4, 4))
    assert np.array_equal(np.asarray(image)[:, :4], np.asarray(half()(image))[:, :4])
    assert np.array_equal(colours(image)[:, :4], colours(half()(image))[:, :4])


def test_floats_between_0_and_1_need_no_scaling():
    image = Image.fromarray(np.linspace(0.1, 0.9, 64, dtype=np.float32).reshape(8, 8))
    result = v2.Compose([advised(image, "mode F, whose range is unknown"), half()])(image)
    assert np.allclose(np.asarray(image)[:, :4], result[0, :, :4].numpy(), atol=1e-6)
