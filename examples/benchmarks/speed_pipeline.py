"""How fast images go through files and processes: cache, workers, sockets, offline sets.

`speed.py` measures these groups beside the others:

    python examples/benchmarks/speed.py --only epoch workers

Everything runs on a CPU, each process with one thread, so that a process more does not mean threads
more.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from pairs import Row, paired_row
from tiny_pipelines import tiny_spec

from diffaug import (
    CachedBackend,
    DiffuseMix,
    DiffusersBackend,
    FractalBank,
    Generated,
    GenerationRequest,
    ModelSpec,
    PromptEdit,
    augment_folder,
    backend_for,
    unload,
    warm_cache,
)
from diffaug.backends.presets import resolve
from diffaug.backends.process.client import WorkerBackend
from diffaug.folders import list_images
from diffaug.functional import resize
from diffaug.images import encode_image, read_image

PHOTOS = Path(__file__).parents[1] / "photos"


class Painter:
    """Answer at once with the source, channels rotated, as large as a model's image would be."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fingerprint = f"painter-{size}"

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        return [
            Generated(resize(one.image.roll(1, 0), (self.size, self.size)), one.seed)
            for one in requests
        ]

    def close(self) -> None:
        pass


def make_photos(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> Path:
    """Write random crops of the example photographs as JPEGs, in a folder for each class."""
    generator = torch.Generator().manual_seed(seed)
    sources = [(path.parent.name, read_image(path)) for path in list_images(PHOTOS)]
    height, width = size
    for number in range(count):
        name, image = sources[number % len(sources)]
        shrink = 0.7 + 0.3 * float(torch.rand((), generator=generator))
        side = (int(image.shape[1] * shrink), int(image.shape[2] * shrink))
        top, left = (
            int(torch.randint(whole - part + 1, (), generator=generator))
            for whole, part in zip(image.shape[1:], side, strict=True)
        )
        crop = image[:, top : top + side[0], left : left + side[1]]
        path = folder / name / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(resize(crop, (height, width)), "jpg", quality=90))
    return folder


def train_transform(*ours: Any) -> v2.Compose:
    """The Compose of the README, with what every classifier adds to it."""
    return v2.Compose(
        [
            v2.Resize((256, 256)),
            *ours,
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def epoch_row(
    repeats: int,
    *,
    photo: tuple[int, int] = (375, 500),
    size: int = 256,
    p: float = 0.5,
    format: str = "jpeg",
    count: int = 256,
    goal: bool = True,
) -> Row:
    """Measure an epoch with cached DiffuseMix against the same one without it."""
    with tempfile.TemporaryDirectory() as work:
        folder = make_photos(Path(work, "photos"), count, photo)
        backend = CachedBackend(Painter(size), folder=Path(work, "cache"), format=format)
        bank = FractalBank()
        for number in range(len(bank)):
            bank[number]
        mix = DiffuseMix(p=p, backend=backend, fractals=bank)
        warm_cache(ImageFolder(folder), train_transform(mix))
        # The workers of a loader that is not asked sleep.
        loaders = [
            DataLoader(
                ImageFolder(folder, transform=train_transform(*steps)),
                batch_size=32, shuffle=True, num_workers=2, persistent_workers=True,
            )
            for steps in ([mix], [])
        ]  # fmt: skip
        row = paired_row(
            f"an epoch with cached DiffuseMix(p={p}), {photo[1]} x {photo[0]} px files resized to "
            f"256, model of {size} px" + (", raw cache" if format == "raw" else ""),
            "the same Compose without it",
            *(lambda loader=loader: sum(len(batch) for batch, _ in loader) for loader in loaders),
            repeats,
            goal="0.9" if goal else "",
            goal_ratio=0.9,
            unit=f"epoch of {count} images",
            detail={"workers": 2, "batch_size": 32, "format": format},
        )
        row.detail["images_per_second"] = [
            round(count / found[1]) for found in (row.ours_quartiles, row.baseline_quartiles)
        ]
        row.detail["milliseconds_more_per_image_and_worker"] = round(2000 * row.more / count, 3)
    return row


def image_row(repeats: int, format: str, *, count: int = 64, side: int = 256) -> Row:
    """Measure the CPU time of an image from the warm cache, decoded photographs given."""
    with tempfile.TemporaryDirectory() as work:
        photos = ImageFolder(make_photos(Path(work, "photos"), count, (side, side)))
        pictures = [photos[number][0] for number in range(count)]
        backend = CachedBackend(Painter(side), folder=Path(work, "cache"), format=format)  # type: ignore[arg-type]
        bank = FractalBank(size=side)
        for number in range(len(bank)):
            bank[number]
        mix = DiffuseMix(p=1.0, backend=backend, fractals=bank)
        warm_cache(photos, train_transform(mix))
        steps = [train_transform(mix), train_transform()]
        row = paired_row(
            f"CPU time of a {side} px image augmented by DiffuseMix from the cache, {format}",
            "the same Compose without it",
            *(lambda step=step: [step(picture) for picture in pictures] for step in steps),
            repeats,
            goal="at most 1.5 ms an image more" if format == "jpeg" else "",
            most_more=0.0015 * count if format == "jpeg" else None,
            unit=f"{count} images",
            clock=time.process_time,
            detail={"threads": 1, "format": format},
        )
        row.detail["milliseconds_more_per_image"] = round(1000 * row.more / count, 3)
        return row


class Edited(torch.utils.data.Dataset):
    """Photographs in memory, each edited as it is asked for."""

    def __init__(self, photos: list[torch.Tensor], transform: Any) -> None:
        self.photos, self.transform = photos, transform

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.photos[index])


def quick_model(**changes: Any) -> ModelSpec:
    """The embedded model with one step; half a batch takes about half as long."""
    return replace(resolve("tiny"), steps=1, batch_size=8, device="cpu", **changes)


def small_model() -> ModelSpec:
    """A pipeline of random weights whose calls cost more than their images."""
    return tiny_spec("edit", size=32, steps=4, batch_size=8)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def small_photos(count: int, side: int) -> list[torch.Tensor]:
    """Return different squares of the example photographs, (3, side, side)."""
    photos = [resize(read_image(path), (side + 8, side + 8)) for path in list_images(PHOTOS)]
    starts = [(n // len(photos) % 8, n // len(photos) // 8) for n in range(count)]
    return [
        photos[n % len(photos)][:, top : top + side, left : left + side].contiguous()
        for n, (top, left) in enumerate(starts)
    ]


def workers_row(
    repeats: int, *, spec: ModelSpec | None = None, workers: int = 4, count: int = 96
) -> Row:
    """Measure workers that share one model process against the model called with full batches."""
    goal, spec = spec is None, spec or quick_model()
    photos = small_photos(count, spec.size)
    edit = PromptEdit(["snowy", "sunset"], backend=spec, cache=False)
    generator = torch.Generator().manual_seed(0)
    requests = [edit.requests(photo[None], edit.draw(1, generator))[0] for photo in photos]
    loader = DataLoader(
        Edited(photos, edit), spec.batch_size, num_workers=workers, persistent_workers=True
    )
    asked = {"DIFFAUG_WORKER": "process", "OMP_NUM_THREADS": "1"}
    with DiffusersBackend(spec) as direct, environment(**asked):
        row = paired_row(
            f"{workers} DataLoader workers sharing one model process"
            + ("" if goal else ", a model whose calls cost more than their images"),
            "the model called directly with full batches",
            lambda: list(loader),
            lambda: direct.generate(requests),
            repeats,
            goal="0.9" if goal else "",
            goal_ratio=0.9,
            unit=f"{count} images",
            detail={
                "batch_size": spec.batch_size, "workers": workers,
                "threads_of_the_model": 1, "cores": os.cpu_count(),
            },
        )  # fmt: skip
        WorkerBackend(spec).stop()
    return row


def socket_row(repeats: int, size: int, goal: str = "", most_more: float | None = None) -> Row:
    """Measure a request to a model's process that need not generate, there and back."""
    spec = tiny_spec("translate", size=size)
    [photo] = small_photos(1, size)
    request = GenerationRequest("", seed=0, image=photo, strength=0.0)  # the source comes back
    with environment(OMP_NUM_THREADS="1"), WorkerBackend(spec) as backend:
        row = paired_row(
            f"a {size} px image to the model's process and one back",
            "a copy within the process",
            lambda: [backend.generate([request]) for _ in range(20)],
            lambda: [photo.clone() for _ in range(20)],
            repeats,
            goal=goal,
            most_more=most_more and 20 * most_more,
            unit="20 images",
        )
        backend.stop()
    return row


def offline_row(repeats: int, *, count: int = 64) -> Row:
    """Measure a set made from a folder against the model called directly with full batches."""
    spec = quick_model(pad=True)
    edit = PromptEdit(["snowy", "sunset"], backend=spec, cache=False)
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as work:
        folder = make_photos(Path(work, "photos"), count, (spec.size, spec.size))
        photos = [read_image(path) for path in list_images(folder)]
        requests = [edit.requests(photo[None], edit.draw(1, generator))[0] for photo in photos]
        sets = itertools.count()
        row = paired_row(
            "offline generation of a folder",
            "the model called directly with full batches",
            lambda: augment_folder(folder, Path(work, f"set{next(sets)}"), edit, per_image=1),
            lambda: backend_for(spec, cache=False).generate(requests),
            repeats,
            goal="0.95",
            goal_ratio=0.95,
            unit=f"{count} images",
            detail={"batch_size": spec.batch_size, "threads": 1},
        )
    unload()
    return row


def hit_row(repeats: int, format: str, *, count: int = 50, side: int = 256) -> Row:
    """Measure what the cache answers against reading such a file."""
    with tempfile.TemporaryDirectory() as work:
        backend = CachedBackend(Painter(side), folder=work, format=format)  # type: ignore[arg-type]
        photos = small_photos(count, side)
        requests = [GenerationRequest("snowy", n, photo) for n, photo in enumerate(photos)]
        path = Path(work, "photo.jpg")
        path.write_bytes(encode_image(backend.generate(requests)[0].image, "jpg"))
        return paired_row(
            f"a {side} px image from the cache, {format}",
            "reading it as a JPEG file",
            lambda: [backend.generate([request]) for request in requests],
            lambda: [read_image(path) for _ in requests],
            repeats,
            unit=f"{count} images",
            detail={"threads": 1},
        )


def _all(*measure: Callable[[int], Row]) -> Callable[[int], list[Row]]:
    return lambda repeats: [row(repeats) for row in measure]


#: What can be measured, by name.
GROUPS: dict[str, Callable[[int], list[Row]]] = {
    "epoch": _all(
        epoch_row,
        partial(epoch_row, p=1.0, goal=False),
        partial(epoch_row, photo=(256, 256)),
        partial(epoch_row, photo=(256, 256), format="raw", goal=False),
        partial(epoch_row, photo=(256, 256), p=1.0, goal=False),
    ),
    "image": _all(partial(image_row, format="jpeg"), partial(image_row, format="raw")),
    "workers": _all(
        workers_row,
        lambda repeats: workers_row(repeats, spec=small_model()),
        lambda repeats: workers_row(repeats, spec=small_model(), workers=8),
    ),
    "socket": _all(
        partial(socket_row, size=256),
        partial(socket_row, size=512, goal="at most 1.5 ms an image more", most_more=0.0015),
    ),
    "offline": _all(offline_row),
    "hit": _all(partial(hit_row, format="jpeg"), partial(hit_row, format="raw")),
}
