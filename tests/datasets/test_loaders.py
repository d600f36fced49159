"""The same pixels of a file beside a set: what a dataset's own loader does is noticed."""

import functools
import warnings

import numpy as np
import pytest
from image_folders import picture
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets import ImageFolder

from diffaug import (
    JointTransform,
    MixedDataset,
    PromptEdit,
    RecordingBackend,
    augment_folder,
    load_image,
)
from diffaug.datasets.loaders import loaded_otherwise


class Around(Dataset):
    """A dataset around another."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


def edit():
    return PromptEdit(["snowy"], backend=RecordingBackend(16))


def turned(path):
    """Load a file upright by Pillow alone, and shrink it."""
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB").resize((12, 12))


def told(*arguments, **options):
    """Return what a MixedDataset warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MixedDataset(*arguments, p=0.5, **options)
    assert {__file__} >= {warning.filename for warning in caught}
    return [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photographs of each of two classes; two of the four lie on their side."""
    root = tmp_path_factory.mktemp("phone") / "photos"
    for number, name in enumerate(("cat/0", "cat/1", "dog/0", "dog/1")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if name in ("cat/1", "dog/0") else 1
        pixels = picture(number).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(root / f"{name}.jpg", exif=exif)
    return root


@pytest.fixture(scope="module")
def upright(photos, tmp_path_factory):
    """A set made from the photographs, which are upright in it."""
    with pytest.warns(UserWarning, match="2 of 4 images were turned upright"):
        done = augment_folder(photos, tmp_path_factory.mktemp("made") / "set", edit())
    return done.destination


def test_originals_that_lie_on_their_side_beside_a_set_are_counted(photos, upright):
    message = (
        "'dataset' sees other pixels than 'generated' in 2 images (turned upright), such as "
        f"'{photos / 'cat' / '1.jpg'}'; give it diffaug's loader: "
        "ImageFolder(root, loader=load_image)."
    )
    full = ImageFolder(photos)
    around = Around(JointTransform(ConcatDataset([Subset(full, [0, 1]), Subset(full, [2, 3])]), id))
    for dataset in (full, around, ImageFolder(photos, transform=np.asarray)):
        assert [message] == told(dataset, upright)
    above = ImageFolder(photos.parent)
    above.samples = above.imgs = [(path, "dog" in path) for path, _ in above.samples]
    above.targets = [int(label) for _, label in above.samples]
    above.classes, above.class_to_idx = ["cat", "dog"], {"cat": 0, "dog": 1}
    assert [message] == told(above, upright)
    [left_out, one] = told(Subset(full, [0, 1]), upright)
    assert "are left out" in left_out and "in 1 image (turned upright)" in one
    assert ["are left out" in line for line in told(Subset(full, [0, 3]), upright)] == [True]


def test_loaders_that_turn_photographs_are_not_warned_of(photos, upright):
    for loader in (load_image, functools.partial(load_image, white=None), turned):
        assert [] == told(ImageFolder(photos, loader=loader), upright)
    # Nobody knows what these show.
    for loader in (lambda path: np.asarray(load_image(path)), lambda path: 1 / 0):
        assert [] == told(ImageFolder(photos, loader=loader), upright)


def test_deep_files_need_the_loader_with_their_white(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        levels = np.linspace(0, 4095, 24 * 32).reshape(24, 32).astype(np.uint16)
        Image.fromarray(levels).save(tmp_path / "scans" / name / "0.png")
    with pytest.warns(UserWarning, match="2 of 2 images differ"):
        augment_folder(tmp_path / "scans", tmp_path / "set", edit(), white=4095)
    [message] = told(ImageFolder(tmp_path / "scans"), tmp_path / "set")
    assert "2 images (16 bits)" in message
    assert "loader=functools.partial(load_image, white=4095)" in message
    fitting = ImageFolder(tmp_path / "scans", loader=functools.partial(load_image, white=4095))
    assert [] == told(fitting, tmp_path / "set")


def test_files_that_other_loaders_see_otherwise_are_counted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (20, 10)).save(tmp_path / "plain.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"")
    files = [str(file) for file in sorted(tmp_path.iterdir())]
    assert {"turned upright": 1} == loaded_otherwise(files)
    assert 200 > sum(loaded_otherwise([files[-1]] * 1000).values()) >= 100
