"""Draw the galleries of docs/gallery.md and the picture of the README, with the embedded models.

    python examples/galleries.py --out docs/images --tuned runs/gallery/tuned
    python examples/galleries.py --only masks --only fractals

Everything runs on a CPU, in about five minutes; nothing is downloaded. `gallery_model.py` makes the
fine-tuned folder. Without it, the strategies that need one are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import typer
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from diffaug import (
    DiffMix,
    DiffuseMix,
    FractalBank,
    FractalBlend,
    HalfConcat,
    PromptEdit,
    load_image,
)
from diffaug.functional import MASKS, blend, half_concat
from diffaug.previews.contact_sheet import stage_rows
from diffaug.previews.drawing import contact_sheet, write_picture
from diffaug.previews.stages import Staged, stages_of
from diffaug.transforms.base import BackendLike, ImageTransform
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

PHOTOS = Path(__file__).parent / "photos"
PAPER, INK, FAINT, BARS = "#f8f7f4", "#26262a", "#e8e6e1", ("#8fd0ae", "#f2c482")
GAP, LINE = 10, 22
#: Classes that the embedded translator paints well, and a photograph of the first one.
CLASSES = ("espresso", "orange", "Persian cat")
SHOWN = "travel/coffee.jpg"
STRENGTHS = tuple(n / 10 for n in range(1, 11))
#: Where the pages show what a transform does: classes that the embedded translator knows.
TARGETS = ("orange", "Persian cat", "goldfish", "jellyfish", "lemon", "monarch", "school bus")
#: A class that it has not seen before it was fine-tuned.
UNKNOWN = "ladybug"
STRATEGIES = ("real-aug", "real-mix", "real-gen")
TUNED = ("diff-aug", "diff-mix", "diff-gen", "ti-aug", "ti-mix")


class Models(NamedTuple):
    """What edits, what translates, and what translates after it was fine-tuned, if there is one."""

    editor: BackendLike
    translator: BackendLike
    tuned: BackendLike | None = None


class Tile(NamedTuple):
    """A picture, or a gap; words under it; and the classes of its label with their percent."""

    picture: torch.Tensor | None
    words: str
    shares: Sequence[tuple[str, int]] = ()


def photograph(name: str, side: int = 256) -> torch.Tensor:
    """Read the middle of a photograph as a square, uint8 (3, side, side)."""
    photo = load_image(PHOTOS / name).convert("RGB")
    square = tv.center_crop(photo, min(photo.size))
    return tv.pil_to_tensor(square.resize((side, side), Image.Resampling.LANCZOS))


def grid(tiles: Sequence[Tile], columns: int, side: int) -> Image.Image:
    """Set tiles side by side, each with its words, and its label as bars where it has one."""
    bars = 2 * LINE if any(tile.shares for tile in tiles) else 0
    across, down = side + GAP, side + LINE + bars + GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (GAP + columns * across, GAP + rows * down), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, tile in enumerate(tiles):
        x, y = GAP + number % columns * across, GAP + number // columns * down
        if tile.picture is None:
            continue
        shown = tv.to_pil_image(tile.picture).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(shown, (x, y))
        pen.text((x, y + side + 3), tile.words, fill=INK, font=font)
        # The class of the photograph keeps its place and its colour.
        shares = sorted(tile.shares, key=lambda share: share[0] != CLASSES[0])
        for place, (name, percent) in enumerate(shares):
            top = y + side + LINE * (place + 1)
            pen.rectangle((x, top, x + side - 1, top + LINE - 5), fill=FAINT)
            end = x + side * percent / 100 - 1
            pen.rectangle((x, top, end, top + LINE - 5), fill=BARS[name != CLASSES[0]])
            pen.text((x + 5, top + 1), f"{name} {percent} %", fill=INK, font=font)
    return sheet


def edited(names: Sequence[str], prompt: str, backend: BackendLike) -> list[Staged]:
    """Show DiffuseMix under one prompt, stage by stage."""
    mix = DiffuseMix([prompt], backend=backend, cache=False)
    return stages_of([(name, photograph(name)) for name in names], mix, 0)


def translated(strategy: str, target: str, strength: float | None, backend: BackendLike) -> Staged:
    """Show DiffMix on the photograph of the first class; a strategy may keep that class."""
    keeps = strategy.endswith("-aug")
    mix = DiffMix(
        (CLASSES[0], target),
        strategy=strategy,
        strength=strength,
        targets=None if keeps else [target],
        backend=backend,
        cache=False,
    )
    [shown] = stages_of([(f"{CLASSES[0]}/{Path(SHOWN).name}", photograph(SHOWN))], mix, 0)
    return shown


def result(shown: Staged) -> torch.Tensor:
    """Return the last stage."""
    return list(shown.stages.values())[-1]


def preview(models: Models) -> Image.Image:
    """The stages of DiffuseMix on two photographs: the first screen needs room for words."""
    chosen = {"animal/cat.jpg": "snowy", "travel/temple.jpg": "sunset"}
    shown = []
    for seed, (name, prompt) in enumerate(chosen.items()):
        photo = load_image(PHOTOS / name).convert("RGB")
        photo.thumbnail((320, 320), Image.Resampling.LANCZOS)
        mix = DiffuseMix([prompt], backend=models.editor, cache=False)
        shown += stages_of([(name, tv.pil_to_tensor(photo))], mix, seed)
    return tv.to_pil_image(contact_sheet(stage_rows(shown, False), 160))


def prompts(models: Models) -> Image.Image:
    """Every prompt of DiffuseMix on two photographs."""
    names = ("animal/raccoon.jpg", "travel/coffee.jpg")
    by_prompt = {prompt: edited(names, prompt, models.editor) for prompt in DIFFUSEMIX_PROMPTS}
    tiles = []
    for number, name in enumerate(names):
        tiles.append(Tile(photograph(name), "the photograph"))
        tiles += [Tile(made[number].stages["edit"], p) for p, made in by_prompt.items()]
    return grid(tiles, 5, 200)


def masks(models: Models) -> Image.Image:
    """Every mask between one photograph and one edit of it."""
    [shown] = edited(["animal/cat.jpg"], "aurora", models.editor)
    photo, edit = shown.original, shown.stages["edit"]
    joined = [Tile(half_concat(photo, edit, mask), mask) for mask in MASKS]
    return grid([Tile(photo, "the photograph"), Tile(edit, "its edit"), *joined], 4, 200)


def fractals(models: Models) -> Image.Image:
    """Rendered fractals, and one of them blended into a photograph."""
    bank = FractalBank(count=15)
    tiles = [Tile(bank[n], bank.name(n)) for n in range(len(bank))]
    photo = photograph("animal/raccoon.jpg")
    blended = [Tile(blend(photo, bank[9], a), f"alpha {a}") for a in (0.1, 0.2, 0.3, 0.4, 0.5)]
    return grid([*tiles, *blended], 5, 160)


def strengths(models: Models) -> Image.Image:
    """A photograph translated to two classes, a little further each time."""
    tiles = []
    for target in CLASSES[1:]:
        tiles.append(Tile(photograph(SHOWN), f"to {target}:"))
        for strength in STRENGTHS:
            shown = translated("real-mix", target, strength, models.translator)
            tiles.append(Tile(result(shown), f"{strength}", shown.shares))
        tiles.append(Tile(None, ""))
    return grid(tiles, 6, 150)


def strategies(models: Models) -> Image.Image:
    """The eight strategies towards a class that only the fine-tuned model knows, with labels."""
    tiles = [Tile(photograph(SHOWN), "the photograph", [(CLASSES[0], 100)])]
    chosen = [(name, models.translator) for name in STRATEGIES]
    if models.tuned is not None:
        chosen += [(name, models.tuned) for name in TUNED]
    for strategy, backend in chosen:
        if strategy.endswith("-aug") and len(tiles) > 1:  # the next row
            tiles.append(Tile(None, ""))
        shown = translated(strategy, UNKNOWN, None, backend)
        tiles.append(Tile(result(shown), strategy, shown.shares))
    return grid(tiles, 4, 150)


def epochs(
    name: str, transform: ImageTransform, words: Callable[[Mapping[str, Any]], str]
) -> Image.Image:
    """One photograph in seven epochs of a transform."""
    tiles = [Tile(photograph(name), "the photograph")]
    for seed in range(7):
        [shown] = stages_of([(name, photograph(name))], transform, seed)
        tiles.append(Tile(result(shown), words(shown.described)))
    return grid(tiles, 4, 200)


def diffusemix(models: Models) -> Image.Image:
    """One photograph in seven epochs of DiffuseMix."""
    mix = DiffuseMix(backend=models.editor, cache=False)
    return epochs("animal/raccoon.jpg", mix, lambda drawn: f"{drawn['prompt']}, {drawn['mask']}")


def half_and_half(models: Models) -> Image.Image:
    """One photograph joined with what several transforms make of it."""
    photo = photograph("animal/cat.jpg")
    edit = PromptEdit(["mosaic"], backend=models.editor, cache=False)
    inner = {
        "RandomSolarize, right": (v2.RandomSolarize(96, p=1), "right"),
        "Grayscale, left": (v2.Grayscale(3), "left"),
        "GaussianBlur, bottom": (v2.GaussianBlur(31, 9.0), "bottom"),
        "RandomPosterize, top": (v2.RandomPosterize(2, p=1), "top"),
        "PromptEdit, right": (edit, "right"),
        "PromptEdit, soft-right": (edit, "soft-right"),
        "PromptEdit, soft-circle": (edit, "soft-circle"),
    }
    joined = [
        Tile(HalfConcat(transform, masks=[mask])(photo), words)
        for words, (transform, mask) in inner.items()
    ]
    return grid([Tile(photo, "the photograph"), *joined], 4, 200)


def fractal_blend(models: Models) -> Image.Image:
    """One photograph in seven epochs of FractalBlend."""
    blend = FractalBlend((0.1, 0.4), fractals=FractalBank(count=40))
    return epochs("travel/temple.jpg", blend, lambda drawn: f"alpha {drawn['alpha']:.2f}")


def diffmix(models: Models) -> Image.Image:
    """One photograph on its way to seven classes, with its soft label."""
    tiles = [Tile(photograph(SHOWN), "the photograph", [(CLASSES[0], 100)])]
    for target in TARGETS:
        shown = translated("real-mix", target, 0.7, models.translator)
        tiles.append(Tile(result(shown), f"to {target}", shown.shares))
    return grid(tiles, 4, 150)


GALLERIES: dict[str, Callable[[Models], Image.Image]] = {
    **{draw.__name__: draw for draw in (preview, prompts, masks, fractals, strengths, strategies)},
    # A picture for the page of each transform.
    "diffusemix": diffusemix,
    "half-concat": half_and_half,
    "fractal-blend": fractal_blend,
    "diffmix": diffmix,
}


def main(
    out: Path = Path("runs/galleries"),
    only: list[str] | None = None,
    editor: BackendLike = "tiny-256",
    translator: BackendLike = "tiny-translate",
    tuned: BackendLike | None = None,
) -> list[Path]:
    """Draw all galleries, or those of these names, and return their files."""
    out.mkdir(parents=True, exist_ok=True)
    models, files = Models(editor, translator, tuned), []
    for name in only or GALLERIES:
        picture = GALLERIES[name](models)
        if name == "preview":  # thin lines and small words stay sharp
            files.append(out / "preview.png")
            write_picture(files[-1], tv.pil_to_tensor(picture))
        else:
            files.append(out / f"gallery-{name}.jpg")
            picture.save(files[-1], quality=88)
        print(files[-1])
    return files


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)

    @app.command()
    def draw(
        out: Path = Path("runs/galleries"), only: list[str] | None = None, tuned: str | None = None
    ) -> None:
        """Draw the galleries."""
        main(out, only, tuned=tuned)

    app()
