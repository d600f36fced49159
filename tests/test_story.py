"""From a folder to a trained classifier, as docs/data.md goes, with what real folders have in them.

A photograph shows its own class and number. It has four rows of four cells. The first twelve cells
say how much of each class is in it, and the last four are the digits of its number. The backend
paints into the cells what a translation makes of them. So each image tells which label is right
and which photograph it shows, if it is upright.
"""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset, WeightedRandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from diffaug import (
    DiffMix,
    Generated,
    JointTransform,
    MixCollate,
    MixedDataset,
    RecordingBackend,
    augment_dataset,
    augment_folder,
    few_shot_subset,
    image_paths,
    load_image,
)

#: In the order of the folders: class1, class10, class11, class12, class2 ...
NAMES = sorted(f"class{number}" for number in range(1, 13))
#: What the model reads instead of these names, which say nothing.
WORDS = dict(zip(NAMES, "ant bee cat dog eel fox gnu hen ibex jay koi lion".split(), strict=True))
EMPTY, EACH, SHOTS = "class7", 4, 2
HEIGHT, WIDTH = 32, 48
#: How to turn a photograph that is upright for a camera that was held as the EXIF tag says.
HELD = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
STEPS, BATCH = 50, 8


def cells(images):
    """Return the mean brightness in [0, 1] of the cells of images (B, 3, H, W) as (B, 16)."""
    rows = images.float().mean(1).unflatten(2, (4, -1)).unflatten(1, (4, -1))
    return rows.mean((2, 4)).flatten(1)


def picture(values):
    """Paint sixteen values in [0, 1] as a picture, uint8 (3, H, W)."""
    grid = (255 * values).round().to(torch.uint8).reshape(4, 4)
    tall = grid.repeat_interleave(HEIGHT // 4, 0).repeat_interleave(WIDTH // 4, 1)
    return tall.expand(3, HEIGHT, WIDTH)


def photograph(label, number):
    digits = [number // 3**place % 3 / 2 for place in range(4)]
    return picture(torch.cat([torch.eye(12)[label], torch.tensor(digits)]))


def number_of(values):
    """Read the number of a photograph from the cells of an image (16,)."""
    return sum(int((2 * digit).round()) * 3**place for place, digit in enumerate(values[12:]))


class Painter(RecordingBackend):
    def generate(self, requests):
        return [self.paint(request) for request in requests]

    def paint(self, request):
        values = cells(request.image[None])[0] / 255
        target = [request.prompt.endswith(word) for word in WORDS.values()].index(True)
        weight = request.strength**0.5
        values[:12] = (1 - weight) * values[:12] + weight * torch.eye(12)[target]
        return Generated(picture(values), request.seed)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Photographs of eleven classes from cameras held in all ways, and other files among them."""
    monkeypatch.chdir(tmp_path)
    number = 0
    for label, name in enumerate(NAMES):
        Path("photos", name).mkdir(parents=True)
        for _ in range(EACH * (name != EMPTY)):
            orientation, turn = list(HELD.items())[number % 4]
            image = Image.fromarray(photograph(label, number).permute(1, 2, 0).numpy())
            exif = Image.Exif()
            exif[0x0112] = orientation
            image = image if turn is None else image.transpose(turn)
            image.save(f"photos/{name}/IMG_{number:04}.JPG", exif=exif, quality=98, subsampling=0)
            number += 1
    Path("photos", NAMES[0], "notes.txt").write_text("taken in May")
    Path("photos", NAMES[2], ".DS_Store").write_bytes(b"\0")
    return Path("photos")


def mixer():
    return DiffMix(
        WORDS, strategy="real-mix", pairs="other", strength=[0.3, 0.9], cache=False,
        backend=Painter(WIDTH),
    )  # fmt: skip


def train(data, sampler):
    """Train for 50 steps, and return the images and the labels of all batches."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(12))
    loader = DataLoader(data, BATCH, sampler=sampler, collate_fn=MixCollate(12))
    batches, epoch = [], 0
    optimizer = None
    while len(batches) < STEPS:
        data.set_epoch(epoch)
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            batches.append((images, labels))
        epoch += 1
    images, labels = (torch.cat(parts) for parts in zip(*batches[:STEPS], strict=True))
    return images, labels


def numbers_in(dataset):
    to_tensor = v2.Compose([v2.ToImage(), v2.Resize((HEIGHT, WIDTH))])
    images = torch.stack([to_tensor(dataset[index][0]) for index in range(len(dataset))])
    return {number_of(values) for values in cells(images) / 255}


def augmented(train_set):
    """Wrap the training set as docs/data.md does; noise that is too weak to see shows each draw."""
    tensors = [v2.ToImage(), v2.Resize((HEIGHT, WIDTH)), v2.ToDtype(torch.float32, scale=True)]
    return JointTransform(train_set, v2.Compose([*tensors, v2.GaussianNoise(sigma=0.002)]), seed=0)


def oversampled(train_set):
    """Draw images with something of class 3 in them five times as often as the others."""
    labels = torch.stack([train_set[index][1] for index in range(len(train_set))])
    return WeightedRandomSampler(1.0 + 4 * (labels[:, 3] > 0), len(train_set))


def check(images, labels, photos, chosen):
    """Check that labels are true, and that each photograph of the training was chosen for it."""
    values = cells(images)
    torch.testing.assert_close(values[:, :12], labels, atol=0.03, rtol=0)
    assert 0.2 < (labels.amax(1) < 0.97).float().mean() < 0.9
    held_out = Subset(photos, sorted(set(range(len(photos))) - set(chosen)))
    shown, wanted = {number_of(row) for row in values}, numbers_in(Subset(photos, chosen))
    assert 11 * SHOTS == len(wanted) and not numbers_in(held_out) & wanted
    assert shown <= wanted and len(shown) > 0.8 * len(wanted)
    # No two of them are copies: each time that an image is drawn, it is augmented anew.
    assert len(images) == len({image.numpy().tobytes() for image in images})


@pytest.fixture
def photos(folder):
    return ImageFolder(folder, loader=load_image, allow_empty=True)


@pytest.fixture
def chosen(photos):
    return few_shot_subset(photos, shots=SHOTS, seed=0)


@pytest.mark.parametrize(
    ("way", "replacement"), [("folder", "concat"), ("dataset", "global"), ("folder", "local")]
)
def test_every_label_is_true_and_no_held_out_photograph_is_trained_on(
    photos, chosen, way, replacement
):
    assert NAMES == photos.classes and 11 * EACH == len(photos)
    if way == "folder":
        only = image_paths(Subset(photos, chosen))
        done = augment_folder("photos", "set", mixer(), only=only, per_image=3, format="png")
    else:
        done = augment_dataset(Subset(photos, chosen), "set", mixer(), per_image=3, format="png")
    assert 3 * 11 * SHOTS == done.made

    p = None if replacement == "concat" else 0.5
    train_set = MixedDataset(Subset(photos, chosen), "set", replacement=replacement, p=p, seed=0)
    data = augmented(train_set)
    check(*train(data, oversampled(train_set)), photos, chosen)


def test_of_a_set_of_all_photographs_a_part_is_trained_on_what_is_its_own(photos, chosen):
    done = augment_folder("photos", "set", mixer(), per_image=3, format="png")
    assert 3 * 11 * EACH == done.made
    with pytest.warns(UserWarning, match="were made from images that are not in 'dataset'"):
        train_set = MixedDataset(Subset(photos, chosen), "set", replacement="global", p=0.5)
    check(*train(augmented(train_set), oversampled(train_set)), photos, chosen)
