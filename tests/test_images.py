"""What goes in comes back: PIL modes, tensors, tv_tensors, files."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from diffaug import images
from diffaug.errors import UnreadableImageError

SIMPLE_MODES = ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA"]


@pytest.fixture
def photo():
    rows, columns = np.mgrid[0:21, 0:30]
    levels = np.stack([rows * 12, columns * 8, (rows + columns) * 5], -1).astype(np.uint8)
    return Image.fromarray(levels)


def in_mode(photo, mode):
    grey = np.asarray(photo.convert("L")).astype(np.int64)
    if mode == "I":
        return Image.fromarray((grey * 257).astype(np.int32))
    if mode == "I;16":
        return Image.fromarray((grey * 257).astype("<u2"))
    if mode == "I;16B":
        return Image.fromarray((grey * 257).astype(">u2"))
    if mode in ("La", "RGBa"):
        return photo.convert(mode.upper()).convert(mode)
    if mode == "PA":
        return photo.convert("P").convert("PA")
    if mode == "LAB":
        return images._like(images._rgb(photo), Image.new("LAB", (1, 1)))
    return photo.convert(mode)


@pytest.mark.parametrize("mode", [*SIMPLE_MODES, "PA", "La", "RGBa", "I", "I;16", "I;16B", "LAB"])
def test_a_pil_image_of_any_mode_comes_back_in_its_mode_and_colours(photo, mode):
    image = in_mode(photo, mode)
    pixels, restore = images.unpack(image)
    back = restore(pixels)
    assert pixels.shape == (1, 3, 21, 30) and pixels.dtype == torch.uint8
    assert (back.mode, back.size) == (image.mode, image.size)
    again, _ = images.unpack(back)
    assert (pixels.float() - again.float()).abs().mean() < 2.5


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


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_the_alpha_channel_is_kept(photo, mode):
    image = photo.convert(mode)
    image.putalpha(Image.fromarray(np.arange(630, dtype=np.uint8).reshape(21, 30)))
    pixels, restore = images.unpack(image)
    back = restore(pixels.flip(-1))
    assert np.array_equal(np.asarray(image.getchannel("A")), np.asarray(back.getchannel("A")))


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    levels = np.array([[0, 257, 32896, 65535]], dtype="<u2")
    pixels, _ = images.unpack(Image.fromarray(levels))
    assert pixels[0, 0].tolist() == [[0, 1, 128, 255]]


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


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 3)), TypeError, "must be a PIL image or a tensor, got ndarray"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "uint8 or floating, got torch.int64"),
        (Image.new("F", (4, 4)), ValueError, "mode F, whose range is unknown"),
        (torch.zeros(4, 4), ValueError, r"1 or 3 channels, got \(4, 4\)"),
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


def test_a_file_is_read_upright_in_rgb(tmp_path, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photo.save(tmp_path / "turned.png", exif=exif)
    assert images.read_image(tmp_path / "turned.png").shape == (3, 30, 21)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "I;16"])
def test_files_of_other_modes_are_read_as_rgb(tmp_path, photo, mode):
    in_mode(photo, mode).save(tmp_path / "image.png")
    pixels = images.read_image(tmp_path / "image.png")
    assert (pixels.shape, pixels.dtype) == ((3, 21, 30), torch.uint8)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert images.read_image(tmp_path / "two.gif")[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_what_is_no_whole_image_is_named(tmp_path, photo, content):
    path = tmp_path / "broken.jpg"
    photo.resize((300, 300)).save(path)
    path.write_bytes(path.read_bytes()[:-2000] if content == "cut" else content)
    with pytest.raises(UnreadableImageError, match="'.*broken.jpg' is not a readable image: "):
        images.read_image(path)


def test_a_palette_with_transparency_raises_no_warning(recwarn):
    image = Image.new("P", (2, 2))
    image.info["transparency"] = bytes(range(256))
    assert images.unpack(image)[0].shape == (1, 3, 2, 2)
    assert [] == list(recwarn)


def test_whatever_a_parser_trips_over_is_a_damaged_image(tmp_path, photo, monkeypatch):
    def trip(image):
        raise struct.error("unpack requires a buffer of 2 bytes")  # Pillow, on some EXIF blocks

    monkeypatch.setattr(images.ImageOps, "exif_transpose", trip)
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
