"""What goes in comes back: PIL modes, tensors, tv_tensors, files."""

import re
import struct

import numpy as np
import pytest
import torch
from elsewhere import OnMps
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pil_photos import make_photo
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug import (
    FractalBank,
    FractalBlend,
    HalfConcat,
    PromptEdit,
    RecordingBackend,
    images,
    pil_modes,
)
from diffaug.errors import UnreadableImageError


def half():
    """Return a transform that leaves the left half of an image as it is."""
    return HalfConcat(PromptEdit(["snowy"], backend=RecordingBackend()), masks=["right"])


@pytest.fixture
def photo():
    return make_photo()


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_pixel_of_a_pil_image_is_where_numpy_has_it(height, width):
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    pixels, restore = images.unpack(image)
    assert np.array_equal(levels.transpose(2, 0, 1), pixels[0].numpy())
    assert np.array_equal(levels, np.asarray(restore(pixels)))


def test_neither_way_shares_memory_with_a_pil_image(photo):
    before = np.array(photo)
    pixels, restore = images.unpack(photo)
    restored = restore(pixels)
    pixels.zero_()
    assert np.array_equal(before, np.asarray(photo))
    assert np.array_equal(before, np.asarray(restored))
    assert images.unpack(photo)[0].is_contiguous()


def test_pixels_in_any_layout_become_a_pil_image(photo):
    pixels, _ = images.unpack(photo)
    turned = pixels.contiguous(memory_format=torch.channels_last)[0]
    assert np.array_equal(np.asarray(photo), np.asarray(images.to_pil(turned)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 5, 7), (2, 3, 5, 7), (2, 4, 1, 5, 7)])
@pytest.mark.parametrize("wrap", [torch.Tensor.clone, tv_tensors.Image])
def test_a_tensor_comes_back_in_its_type_shape_and_dtype(dtype, shape, wrap):
    image = wrap((torch.rand(shape) * (255 if dtype == torch.uint8 else 1)).to(dtype))
    pixels, restore = images.unpack(image)
    back = restore(pixels)
    assert pixels.shape == (images.check_image(image), 3, 5, 7)
    assert type(pixels) is torch.Tensor and type(back) is type(image)
    assert (back.dtype, back.shape) == (image.dtype, image.shape)
    torch.testing.assert_close(
        back.as_subclass(torch.Tensor).float(),
        image.as_subclass(torch.Tensor).float(),
        atol=0 if dtype == torch.uint8 else 1e-7,
        rtol=0,
    )


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS])
@pytest.mark.parametrize("shape", [(3, 9, 16), (1, 9, 16), (4, 1, 9, 16), (2, 2, 3, 9, 16)])
@pytest.mark.parametrize("wrap", [torch.Tensor.clone, tv_tensors.Image])
def test_the_kept_half_of_a_tensor_is_equal_to_the_last_bit(dtype, shape, wrap):
    levels = torch.randint(0, 256, shape) if dtype == torch.uint8 else torch.rand(shape).double()
    image = wrap(levels.to(dtype))
    result = half()(image)
    assert (type(image), image.dtype, image.shape) == (type(result), result.dtype, result.shape)
    assert torch.equal(image[..., :8], result[..., :8])
    assert not torch.equal(image[..., 8:], result[..., 8:])
    blend = FractalBlend(alpha=0, fractals=FractalBank(2, 16))
    assert torch.equal(image, blend(image))


@given(st.integers(0, 2**32), st.sampled_from(FLOATS))
def test_grey_of_equal_channels_is_exactly_theirs(seed, dtype):
    grey = torch.rand(1, 1, 50, 50, dtype=torch.float64, generator=torch.manual_seed(seed))
    grey = grey.to(dtype)
    assert torch.equal(grey, pil_modes.luma(grey.expand(-1, 3, -1, -1)))


def test_gradients_pass_the_kept_half():
    image = torch.rand(1, 4, 6, requires_grad=True)
    half()(image).sum().backward()
    expected = torch.tensor([1.0, 1, 1, 0, 0, 0]).expand(1, 4, 6)
    torch.testing.assert_close(expected, image.grad)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_inference_tensor_is_augmented_like_another_one(dtype, channels):
    with torch.inference_mode():
        image = (torch.rand(4, channels, 5, 6) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    for transform in (half(), FractalBlend(alpha=0.3, fractals=FractalBank(1, 16))):
        transform.p = 0.6  # some of the batch
        torch.manual_seed(3)
        expected = transform(image.clone())
        torch.manual_seed(3)
        assert torch.equal(expected, transform(image))


def followed(image, message):
    """Return an image after what its error advises, which stands after a colon or 'before'."""
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        half()(image)
    [code] = re.findall(r": ([^:]*?image.*?)(?:, or .*)?\.$", str(caught.value))
    return eval(code)


def in_a_compose(image):
    """Return an image after the transforms that its error names."""
    with pytest.raises((TypeError, ValueError)) as caught:
        half()(image)
    [steps] = re.findall(r"or (v2\..*)\.$", str(caught.value))
    return eval(f"v2.Compose([{steps}])")(image)


INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", [*INTEGERS[1:], *UNSIGNED])
@pytest.mark.parametrize("white", [255, 4095, 16383])
def test_the_advice_for_whole_numbers_makes_no_image_black(dtype, white):
    levels = torch.randint(0, white, (3, 8, 8))
    levels[0, 0, 0] = white
    message = f"uint8 or floating, got {dtype}; scale it to .* image.float\\(\\) / {white}, or "
    for floats in (followed(levels.to(dtype), message), in_a_compose(levels.to(dtype))):
        result = half()(floats)
        assert (1.0, torch.float32) == (result.max(), result.dtype)
        assert torch.equal(levels[..., :4], (result[..., :4] * white).round().long())


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_advice_for_numbers_below_zero_is_right(dtype):
    levels = torch.tensor([[[-100, 0, 100, 127]]], dtype=dtype)
    for floats in (followed(levels, "got torch.int"), in_a_compose(levels)):
        torch.testing.assert_close(torch.tensor([[[0.0, 100 / 227, 200 / 227, 1.0]]]), floats)


def test_the_advice_for_whole_numbers_is_the_same_on_mps():
    levels = torch.tensor([[[0, 4095]]], dtype=torch.int32)
    with pytest.raises(TypeError, match=r"got torch.int32; scale it .* image.float\(\) / 4095, or"):
        images.check_image(levels.as_subclass(OnMps))


def test_the_advice_for_yes_and_no_is_right():
    levels = torch.tensor([[[True, False]]])
    for floats in (followed(levels, "got torch.bool; turn it"), in_a_compose(levels)):
        assert torch.equal(torch.tensor([[[1.0, 0.0]]]), floats)


@pytest.mark.parametrize("shape", [(8, 9, 3), (8, 9, 1), (5, 8, 9, 3), (8, 9, 4), (1, 8, 9, 2)])
def test_channels_last_are_moved_to_the_front(shape):
    image = followed(torch.rand(shape), "with 1 or 3 channels, got .* move its channels")
    if shape[-1] not in (1, 3):
        image = followed(image, "drop the alpha channel")
    assert half()(image).shape[-3:] in ((3, 8, 9), (1, 8, 9))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_in_a_tensor_is_dropped_as_advised(photo, mode):
    image = photo.convert(mode)
    tensor = v2.ToImage()(image)
    dropped = followed(tensor, r"put v2.RGB\(\) before v2.ToImage\(\), or drop")
    assert torch.equal(tensor[:-1], dropped)
    assert half()(dropped).shape[1:] == (21, 30)
    assert v2.Compose([v2.RGB(), v2.ToImage(), half()])(image).shape == (3, 21, 30)


def test_of_many_channels_three_are_chosen():
    image = torch.rand(2, 7, 8, 9)
    assert torch.equal(image[:, :3], followed(image, "choose three of its channels"))


def test_levels_as_floats_are_divided_by_their_white():
    levels = torch.tensor([[[0.0, 100.0, 255.0]]])
    message = r"floats in \[0, 1\], got 0 to 255; divide it by its white"
    for floats in (followed(levels, message), in_a_compose(levels)):
        torch.testing.assert_close(levels / 255, floats)


def test_an_overshoot_is_clamped():
    image = torch.tensor([[[-0.02, 0.5, 1.1]]])
    message = "put this transform before Normalize, and clamp"
    assert torch.equal(image.clamp(0, 1), followed(image, message))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 3)), TypeError, "must be a PIL image or a tensor, got ndarray"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "uint8 or floating, got torch.int64"),
        (Image.new("F", (4, 4)), ValueError, "mode F, whose range is unknown"),
        (torch.zeros(4, 4), ValueError, r"got \(4, 4\); this looks like a label"),
        (torch.zeros(4, 4, 4), ValueError, r"1 or 3 channels, got \(4, 4, 4\)"),
        (torch.zeros(3, 0, 4), ValueError, r"got \(3, 0, 4\)"),
        (
            torch.full((3, 4, 4), 1.5),
            ValueError,
            r"floats in \[0, 1\], got 1.5 to 1.5; put .* Norm",
        ),
        (torch.full((3, 4, 4), torch.nan), ValueError, "got nan to nan"),
    ],
)
def test_a_wrong_image_is_one_clear_line(image, error, message):
    with pytest.raises(error, match=message):
        images.check_image(image)


@given(st.integers(0, 255))
def test_uint8_survives_the_way_to_floats_and_back(level):
    pixels = torch.full((1, 3, 1, 1), level, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64, torch.float16):
        floats = images.to_dtype(pixels, like=torch.zeros(1, dtype=dtype))
        assert floats.dtype == dtype and torch.equal(images.to_uint8(floats), pixels)


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_what_is_no_whole_image_is_named(tmp_path, photo, content):
    path = tmp_path / "broken.jpg"
    photo.resize((300, 300)).save(path)
    path.write_bytes(path.read_bytes()[:-2000] if content == "cut" else content)
    with pytest.raises(UnreadableImageError, match="'.*broken.jpg' is not a readable image: "):
        images.read_image(path)


def test_whatever_a_parser_trips_over_is_a_damaged_image(tmp_path, photo, monkeypatch):
    def trip(image):
        raise struct.error("unpack requires a buffer of 2 bytes")  # Pillow, on some files

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", trip)
    photo.save(tmp_path / "image.png")
    with pytest.raises(UnreadableImageError, match="image.png' is not a readable image: unpack"):
        images.read_image(tmp_path / "image.png")


@pytest.mark.parametrize("level", [0, 1, 200, 255])
def test_grey_levels_are_not_changed_by_the_way_through_colour(level):
    for image in (
        torch.full((2, 1, 3, 3), level, dtype=torch.uint8),
        torch.full((1, 3, 3), level / 255),
    ):
        pixels, restore = images.unpack(image)
        torch.testing.assert_close(image, restore(pixels), rtol=0, atol=1e-7)


@pytest.mark.parametrize("format", ["jpg", "png", "webp"])
def test_an_encoded_image_is_read_back(tmp_path, photo, format):
    pixels, _ = images.unpack(photo)
    (tmp_path / f"image.{format}").write_bytes(images.encode_image(pixels[0], format))
    back = images.read_image(tmp_path / f"image.{format}")
    tolerance = 0 if format == "png" else 4
    assert (back.float() - pixels[0].float()).abs().mean() <= tolerance
