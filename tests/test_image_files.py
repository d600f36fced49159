"""One reading of a file: the same pixels however they come in, and whom to ask what is white."""

import io
import pickle
import re
import struct
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from pil_photos import BACK, MODES, in_mode, make_photo, save_turned
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from diffaug import FractalBank, FractalBlend, augment_dataset, augment_folder, images, load_image
from diffaug.errors import UnreadableImageError
from diffaug.fractal_folder import FractalFolder

#: Older ones take a TIFF of YCbCr for a truncated one.
READS_YCBCR = int(PIL.__version__.split(".")[0]) >= 13
#: Which of the modes each format holds.
FORMATS = {
    "png": ["1", "L", "LA", "P", "P;alpha", "P;alphas", "RGB", "RGBA", "I;16", "I;16B"],
    "tiff": ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "I;16"]
    + ["I;16B"],
    "jpg": ["L", "RGB", "CMYK", "YCbCr"],
    "webp": ["L", "RGB", "RGBA"],
    "gif": ["1", "L", "P", "P;alpha"],
    "bmp": ["1", "L", "P", "RGB"],
    "ppm": ["1", "L", "RGB", "I"],
}
FILES = [(extension, mode) for extension, modes in FORMATS.items() for mode in modes]
if not READS_YCBCR:
    FILES.remove(("tiff", "YCbCr"))


def torchvision_sees(path):
    """Return the pixels (3, H, W) that ImageFolder's own loader gives."""
    return torch.from_numpy(np.array(default_loader(path))).permute(2, 0, 1)


def save_levels(levels, path):
    """Write whole levels as a file of 16 bits."""
    Image.fromarray(np.asarray(levels).astype("<u2")).save(path)
    return path


@pytest.mark.parametrize(("extension", "mode"), FILES)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # torchvision's loader
def test_a_file_is_said_to_differ_where_torchvision_sees_other_pixels(tmp_path, extension, mode):
    path = tmp_path / f"image.{extension}"
    in_mode(make_photo(), mode).save(path)
    photo, usual = images.read_photo(path), torchvision_sees(path)
    assert (photo.pixels.shape, photo.pixels.dtype) == ((3, 21, 30), torch.uint8)
    expected = {"I": "16 bits", "I;16": "16 bits", "I;16B": "16 bits"}
    assert expected.get(mode) == photo.differs
    assert torch.equal(usual, photo.pixels) == (photo.differs is None)


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_are_read_upright(tmp_path, extension, orientation):
    path = save_turned(make_photo(), tmp_path / f"image.{extension}", orientation)
    photo, usual = images.read_photo(path), torchvision_sees(path)
    assert (3, 21, 30) == photo.pixels.shape
    upright = torch.from_numpy(np.array(make_photo())).permute(2, 0, 1)
    assert (photo.pixels.float() - upright.float()).abs().mean() < 5  # JPEG and WebP lose some
    assert torch.equal(usual, photo.pixels) == (photo.differs is None)
    # Pillow turns a TIFF by itself.
    turned = orientation > 1 and extension != "tiff"
    assert ("turned upright" if turned else None) == photo.differs


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_upright_is_not_turned_once_more(tmp_path, extension, orientation):
    path = save_turned(make_photo(), tmp_path / f"image.{extension}", orientation)
    image = load_image(path)
    assert np.array_equal(np.asarray(image), np.asarray(ImageOps.exif_transpose(image)))
    image.save(tmp_path / "copy.png")
    copy = images.read_photo(tmp_path / "copy.png")
    assert copy.differs is None
    assert torch.equal(images.read_image(path), copy.pixels)


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    make_photo().save(tmp_path / "image.png", exif=exif)
    photo = images.read_photo(tmp_path / "image.png")
    assert (None, (3, 21, 30)) == (photo.differs, photo.pixels.shape)


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@pytest.mark.parametrize("tags", [b"nonsense", b"II*\0\xff\xff\xff\xff", b""])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_tags_make_no_damaged_picture(tmp_path, extension, tags):
    path = tmp_path / f"image.{extension}"
    make_photo().save(path, exif=b"Exif\0\0" + tags)
    photo = images.read_photo(path)
    assert photo.differs is None
    assert torch.equal(torchvision_sees(path), photo.pixels)


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_an_orientation_in_xmp_is_obeyed_too(tmp_path, extension):
    tag = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    path = tmp_path / f"image.{extension}"
    make_photo().save(path, xmp=f"<x:xmpmeta><rdf:RDF>{tag}</rdf:RDF></x:xmpmeta>".encode())
    photo = images.read_photo(path)
    assert ("turned upright", (3, 30, 21)) == (photo.differs, photo.pixels.shape)
    assert (21, 30) == ImageOps.exif_transpose(load_image(path)).size


def test_what_is_turned_and_deep_is_said_to_be_both(tmp_path):
    path = save_turned(in_mode(make_photo(), "I;16"), tmp_path / "image.png", 6)
    assert "turned upright and 16 bits" == images.read_photo(path).differs
    assert (3, 21, 30) == images.read_image(path).shape


def test_the_loader_gives_a_folder_of_phone_photographs_upright(tmp_path):
    for orientation in BACK:
        save_turned(make_photo(), tmp_path / "cat" / f"{orientation}.png", orientation)
    usual, ours = ImageFolder(tmp_path), ImageFolder(tmp_path, loader=load_image)
    assert {(30, 21), (21, 30)} == {image.size for image, _ in usual}
    for image, _ in ours:
        assert np.array_equal(np.asarray(make_photo()), np.asarray(image))
        assert (Image.Image, "RGB") == (type(image), image.mode)


def test_the_loader_takes_what_torchvision_s_takes_and_travels(tmp_path):
    path = tmp_path / "image.png"
    in_mode(make_photo(), "I;16", white=4095).save(path)
    loader = partial(load_image, white=4095)
    expected = np.asarray(loader(path))
    assert np.array_equal(expected, np.asarray(pickle.loads(pickle.dumps(loader))(str(path))))
    with open(path, "rb") as file:
        assert np.array_equal(expected, np.asarray(loader(file)))
        assert not file.closed
    data = io.BytesIO(path.read_bytes())
    assert np.array_equal(expected, np.asarray(loader(data)))


def test_every_way_in_sees_the_same_pixels(tmp_path):
    for orientation in BACK:
        save_turned(make_photo(32, 32), tmp_path / f"{orientation}.png", orientation)
    pictures = FractalFolder(tmp_path, size=32)
    for index, path in enumerate(sorted(tmp_path.iterdir())):
        expected = images.read_photo(path).pixels
        assert torch.equal(expected, images.read_image(path))
        assert torch.equal(expected, images.unpack(load_image(path))[0][0])
        assert torch.equal(expected, pictures[index])
        assert torch.equal(expected, images.read_image(io.BytesIO(path.read_bytes())))


def test_a_set_shows_what_the_loader_shows(tmp_path):
    for orientation in BACK:
        save_turned(make_photo(), tmp_path / "photos" / "cat" / f"{orientation}.jpg", orientation)
    for mode in ("I;16", "P;alpha", "LA", "RGBA"):
        in_mode(make_photo(), mode).save(tmp_path / "photos" / "cat" / f"z{mode[0]}{mode[-1]}.png")
    blend = FractalBlend(alpha=0, fractals=FractalBank(2, 16))
    augment_folder(tmp_path / "photos", tmp_path / "set", blend, format="png")
    sources = ImageFolder(tmp_path / "photos", loader=load_image)
    augment_dataset(sources, tmp_path / "again", blend, format="png")
    sets = [ImageFolder(tmp_path / name) for name in ("set", "again")]
    assert 12 == len(sources) == len(sets[0]) == len(sets[1])
    for (image, _), *made in zip(sources, *sets, strict=True):
        assert all(np.array_equal(np.asarray(image), np.asarray(other)) for other, _ in made)


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path, extension):
    path = save_levels([[0, 128, 129, 257, 32896, 65535]], tmp_path / f"image.{extension}")
    assert [[0, 0, 1, 1, 128, 255]] == images.read_image(path)[0].tolist()
    assert torch.equal(images.read_image(path)[0], images.read_image(path, white=65535)[2])


def test_white_is_what_the_user_says_and_higher_levels_are_white(tmp_path):
    path = save_levels([[0, 2048, 4095, 5000]], tmp_path / "image.png")
    assert [[0, 128, 255, 255]] == images.read_image(path, white=4095)[1].tolist()
    make_photo().save(tmp_path / "photo.png")  # of 8 bits: it says itself what is white
    usual = images.read_image(tmp_path / "photo.png")
    assert torch.equal(usual, images.read_image(tmp_path / "photo.png", white=4095))


@pytest.mark.parametrize("white", [255, 1023, 4095, 8191])
def test_a_dark_deep_file_is_refused_and_both_advices_help(tmp_path, white):
    path = save_levels([[0, 1, white - 1, white]], tmp_path / "scan's.png")
    message = f"scan's.png' has 16 bits and no level above {white}, so that its white is unknown"
    with pytest.raises(UnreadableImageError, match=message):
        images.read_photo(path)
    try:
        images.read_photo(path)
    except UnreadableImageError as error:
        [argument] = re.findall(r"give (white=\d+)", str(error))
        [call] = re.findall(r"(diffaug\.load_image\(.*\))\.save", str(error))
    expected = [[0, round(255 / white), round(255 * (white - 1) / white), 255]]
    assert expected == eval(f"images.read_photo(path, {argument})").pixels[0].tolist()
    eval(call.replace("diffaug.", "")).save(tmp_path / "copy.png")
    assert expected == images.read_image(tmp_path / "copy.png")[0].tolist()


def test_a_black_deep_file_is_black(tmp_path):
    photo = images.read_photo(save_levels(np.zeros((2, 2)), tmp_path / "image.png"))
    assert (0, None) == (photo.pixels.max(), photo.differs)


def test_levels_above_16_bits_need_a_white(tmp_path):
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "image.tiff")
    with pytest.raises(UnreadableImageError, match="levels up to 70000, .* give white=131071 "):
        images.read_image(tmp_path / "image.tiff")
    assert [[0, 136]] == images.read_image(tmp_path / "image.tiff", white=131071)[0].tolist()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
@pytest.mark.parametrize("white", [None, 4095])
def test_levels_below_zero_are_refused_and_the_advice_helps(tmp_path, monkeypatch, kind, white):
    monkeypatch.chdir(tmp_path)
    path = Path("scan.tiff")
    Image.fromarray(np.array([[-1024, 0, 1000, 3071]], kind)).save(path)
    with pytest.raises(UnreadableImageError, match="levels from -1024.* save a copy") as caught:
        images.read_image(path, white=white)
    [code] = re.findall(r"8 bits: (.*)\.$", str(caught.value))
    exec(code, {"numpy": np, "PIL": PIL})
    assert [[0, 64, 126, 255]] == images.read_image("copy.png")[0].tolist()


def pgm(path, maxval, levels, magic=b"P5"):
    """Write a portable map, which says what is white."""
    levels = np.array(levels)
    height, width = levels.shape[:2]
    body = levels.astype(">u2").tobytes() if magic in (b"P5", b"P6") else b""
    body = body or " ".join(map(str, levels.flatten().tolist())).encode()
    path.write_bytes(b"%s\n%d %d\n%d\n" % (magic, width, height, maxval) + body)
    return path


@pytest.mark.parametrize("magic", [b"P5", b"P2"])
def test_a_portable_map_says_itself_what_is_white(tmp_path, magic):
    path = pgm(tmp_path / "image.pgm", 4095, [[0, 100, 2048, 4095]], magic)
    assert [[0, 6, 128, 255]] == images.read_image(path)[0].tolist()
    assert [[0, 6, 128, 255]] == images.read_image(path, white=4095)[0].tolist()
    assert [[0, 12, 255, 255]] == images.read_image(path, white=2048)[0].tolist()
    path = pgm(tmp_path / "dark.pgm", 4095, [[0, 100, 200]], magic)
    assert [[0, 6, 12]] == images.read_image(path)[0].tolist()
    path = pgm(tmp_path / "silent.pgm", 65535, [[0, 2048, 4095]], magic)
    with pytest.raises(UnreadableImageError, match="no level above 4095"):
        images.read_image(path)
    assert [[0, 128, 255]] == images.read_image(path, white=4095)[0].tolist()


def test_a_tiff_of_12_bits_says_what_is_white(tmp_path):
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags.append((279, 6))
    levels = bytes([0x00, 0x00, 0x64, 0x80, 0x0F, 0xFF])  # 0, 100, 2048, 4095
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "image.tiff").write_bytes(b"II*\0" + struct.pack("<I", 14) + levels + directory)
    assert [[0, 6, 128, 255]] == images.read_image(tmp_path / "image.tiff")[0].tolist()
    assert [[0, 12, 255, 255]] == images.read_image(tmp_path / "image.tiff", white=2048)[0].tolist()


def deep_colour_png(path, levels):
    """Write 16-bit colour, which Pillow cannot."""
    import zlib

    levels = np.asarray(levels).astype(">u2")
    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in levels)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def test_sixteen_bit_colour_is_read_by_its_range_or_refused(tmp_path):
    full = deep_colour_png(tmp_path / "full.png", [[[0, 32896, 65535]]])
    photo = images.read_photo(full)
    assert ([0, 128, 255], None) == (photo.pixels[:, 0, 0].tolist(), photo.differs)
    dark = deep_colour_png(tmp_path / "dark.png", [[[0, 2048, 4095]]])
    for white in (None, 4095):
        with pytest.raises(UnreadableImageError, match="colours of 16 bits .* give white=65535"):
            images.read_image(dark, white=white)
    assert [0, 8, 15] == images.read_image(dark, white=65535)[:, 0, 0].tolist()
    # A portable map says what is white, and then Pillow scales by it.
    levels = [[[0, 2048, 4095], [0, 0, 0]]]
    assert [0, 128, 255] == images.read_image(pgm(tmp_path / "own.ppm", 4095, levels, b"P6"))[
        :, 0, 0
    ].tolist()


def test_a_bitmap_of_16_bits_for_three_colours_is_no_deep_file(tmp_path):
    """Its raw mode is BGR;16: 5, 6 and 5 bits."""
    header = struct.pack("<2sIHHI", b"BM", 66 + 8, 0, 0, 66)
    header += struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    header += struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    (tmp_path / "image.bmp").write_bytes(header + struct.pack("<HHI", 0x0841, 0, 0))
    for white in (None, 4095):
        pixels = images.read_image(tmp_path / "image.bmp", white=white)
        assert torch.equal(torchvision_sees(tmp_path / "image.bmp"), pixels)
        assert 8 == pixels.max()


def test_floats_in_a_file_have_the_white_that_the_user_says(tmp_path):
    path = tmp_path / "image.tiff"
    Image.fromarray(np.array([[0, 0.5, 2.0, 700.0]], np.float32)).save(path)
    with pytest.raises(UnreadableImageError, match="floats and levels up to 700.0, .* white=1023"):
        images.read_photo(path)
    photo = images.read_photo(path, white=1)
    assert ([[0, 128, 255, 255]], "floats") == (photo.pixels[0].tolist(), photo.differs)
    Image.fromarray(np.array([[0, 0.25, 1.0]], np.float32)).save(path)
    with pytest.raises(UnreadableImageError, match="levels up to 1.0, .* give white=1 "):
        images.read_photo(path)
    Image.fromarray(np.zeros((1, 2), np.float32)).save(path)
    assert 0 == images.read_image(path).max()


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_whatever_is_white(tmp_path, worst):
    Image.fromarray(np.array([[worst, 5.0]], np.float32)).save(tmp_path / "image.tiff")
    with pytest.raises(UnreadableImageError, match="floats and levels from .* no numbers"):
        images.read_image(tmp_path / "image.tiff", white=7)


@pytest.mark.parametrize(
    ("white", "error", "message"),
    [
        (0, ValueError, "'white' must be at least 1, got 0"),
        (4095.0, TypeError, "'white' must be an integer, got 4095.0"),
    ],
)
def test_a_wrong_white_is_the_caller_s_fault(tmp_path, white, error, message):
    make_photo().save(tmp_path / "image.png")
    with pytest.raises(error, match=message) as caught:
        load_image(tmp_path / "image.png", white=white)
    assert not isinstance(caught.value, UnreadableImageError)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for extension in ("gif", "webp", "png", "tiff"):
        path = tmp_path / f"two.{extension}"
        options = {"lossless": True} if extension == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert [255, 0, 0] == images.read_image(path)[:, 0, 0].tolist()


def test_alpha_is_dropped_and_shows_the_colour_beneath(tmp_path):
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "image.png")
    assert [10, 20, 30] == images.read_image(tmp_path / "image.png")[:, 0, 0].tolist()


def test_every_mode_that_a_file_can_have_is_among_those_tried():
    assert {mode for modes in FORMATS.values() for mode in modes} == set(MODES) - {
        *("La", "RGBa", "HSV", "I;16L", "I;16N")  # no format holds these
    }


def float_tiff(path):
    Image.fromarray(np.linspace(-3, 700, 30, dtype=np.float32).reshape(5, 6)).save(path)


def paged(path):
    frames = [make_photo(), Image.new("RGB", (30, 21), "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def profiled(path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    make_photo().save(path, icc_profile=profile)


def saved(mode, **options):
    return lambda path: in_mode(make_photo(), mode, **options).save(path)


#: Files of each row of the table in docs/pixels.md.
ROWS = {
    "JPEG, PNG or WebP with an orientation in EXIF": [
        (extension, partial(save_turned, make_photo(), orientation=orientation))
        for extension in ("jpg", "png", "webp")
        for orientation in range(2, 9)
    ],
    "TIFF with an orientation": [("tiff", partial(save_turned, make_photo(), orientation=6))],
    "grey of 16 bits that uses its range": [("png", saved("I;16")), ("tiff", saved("I"))],
    "grey of 16 bits without any level above 8191": [("png", saved("I;16", white=8191))],
    "PGM of 16 bits that says what is white": [
        ("pgm", partial(pgm, maxval=4095, levels=[[9, 4000]]))
    ],
    "colour of 16 bits that uses its range": [
        ("png", partial(deep_colour_png, levels=[[[0, 8192, 0]]]))
    ],
    "colour of 16 bits without any level above 8191": [
        ("png", partial(deep_colour_png, levels=[[[0, 8191, 0]]]))
    ],
    "floats (TIFF)": [("tiff", float_tiff)],
    "transparency (PNG, WebP, GIF)": [
        *[(extension, saved("RGBA")) for extension in ("png", "webp")],
        ("gif", saved("P;alpha")),
    ],
    "palette, with and without transparency": [
        *[(extension, saved("P")) for extension in ("png", "gif", "tiff", "bmp")],
        *[("png", saved(f"P;{kind}")) for kind in ("alpha", "alphas")],
    ],
    "CMYK, YCbCr, LAB": [
        ("tiff", saved(mode)) for mode in ("CMYK", *["YCbCr"] * READS_YCBCR, "LAB")
    ],
    "1 bit": [(extension, saved("1")) for extension in ("png", "tiff", "bmp", "ppm", "gif")],
    "animation, several pages": [(extension, paged) for extension in ("gif", "webp", "tiff")],
    "with a colour profile": [(extension, profiled) for extension in ("jpg", "png", "webp")],
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # torchvision's loader
def test_the_page_about_pixels_says_what_is_so(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "pixels.md").read_text()
    table = page.split("## Files")[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.split("\n")[2:]]
    assert list(ROWS) == [row[0] for row in rows]
    for kind, seen, usually, cure in rows:
        for number, (extension, save) in enumerate(ROWS[kind]):
            path = tmp_path / f"{rows.index([kind, seen, usually, cure])}-{number}.{extension}"
            save(path)
            if "refused" in seen:
                with pytest.raises(UnreadableImageError):
                    images.read_photo(path)
                assert cure
                continue
            photo = images.read_photo(path)
            assert (usually == "the same") == (photo.differs is None) == (not cure)
            assert (usually == "the same") == torch.equal(torchvision_sees(path), photo.pixels)


def test_no_white_is_taken_that_16_bits_cannot_hold(tmp_path):
    in_mode(make_photo(), "I;16").save(tmp_path / "photo.png")
    images.read_image(tmp_path / "photo.png", white=65535)
    with pytest.raises(UnreadableImageError, match="white=65536 is more than these hold"):
        images.read_image(tmp_path / "photo.png", white=65536)
