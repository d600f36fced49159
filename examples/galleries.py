"""Draw the galleries of docs/gallery.md and the picture of the README, with the embedded models.

    python examples/galleries.py --out docs/images
    python examples/galleries.py --only masks --only fractals

Everything runs on a CPU, in about five minutes; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import typer
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2 import functional as tv

from diffaug import DiffMix, DiffuseMix, FractalBank, load_image
from diffaug.functional import MASKS, blend, half_concat
from diffaug.previews.contact_sheet import stage_rows
from diffaug.previews.drawing import contact_sheet, write_picture
from diffaug.previews.stages import Staged, stages_of
from diffaug.transforms.base import BackendLike
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS

PHOTOS = Path(__file__).parent / "photos"
PAPER, INK, FAINT, BARS = "#f8f7f4", "#26262a", "#e8e6e1", ("#8fd0ae", "#f2c482")
GAP, LINE = 10, 22
#: Classes that the embedded translator paints well, and a photograph of the first one.
CLASSES = ("espresso", "orange", "Persian cat")
SHOWN = "travel/coffee.jpg"
STRENGTHS = tuple(n / 10 for n in range(1, 11))
STRATEGIES = ("real-aug", "real-mix", "real-gen")


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
    """Show DiffMix on the photograph of the first class."""
    targets = None if target == CLASSES[0] else [target]
    mix = DiffMix(
        CLASSES,
        strategy=strategy,
        strength=strength,
        targets=targets,
        backend=backend,
        cache=False,
    )
    [shown] = stages_of([(f"{CLASSES[0]}/{Path(SHOWN).name}", photograph(SHOWN))], mix, 0)
    return shown


def preview(editor: BackendLike, translator: BackendLike) -> Image.Image:
    """The stages of DiffuseMix on four photographs."""
    chosen = {
        "animal/cat.jpg": "snowy",
        "animal/raccoon.jpg": "mosaic",
        "travel/coffee.jpg": "a sketch with crayon",
        "travel/temple.jpg": "sunset",
    }
    shown = []
    for seed, (name, prompt) in enumerate(chosen.items()):
        photo = load_image(PHOTOS / name).convert("RGB")
        photo.thumbnail((320, 320), Image.Resampling.LANCZOS)
        mix = DiffuseMix([prompt], backend=editor, cache=False)
        shown += stages_of([(name, tv.pil_to_tensor(photo))], mix, seed)
    return tv.to_pil_image(contact_sheet(stage_rows(shown, False), 160))


def prompts(editor: BackendLike, translator: BackendLike) -> Image.Image:
    """Every prompt of DiffuseMix on two photographs."""
    names = ("animal/raccoon.jpg", "travel/coffee.jpg")
    by_prompt = {prompt: edited(names, prompt, editor) for prompt in DIFFUSEMIX_PROMPTS}
    tiles = []
    for number, name in enumerate(names):
        tiles.append(Tile(photograph(name), "the photograph"))
        tiles += [Tile(made[number].stages["edit"], p) for p, made in by_prompt.items()]
    return grid(tiles, 5, 200)


def masks(editor: BackendLike, translator: BackendLike) -> Image.Image:
    """Every mask between one photograph and one edit of it."""
    [shown] = edited(["animal/cat.jpg"], "aurora", editor)
    photo, edit = shown.original, shown.stages["edit"]
    joined = [Tile(half_concat(photo, edit, mask), mask) for mask in MASKS]
    return grid([Tile(photo, "the photograph"), Tile(edit, "its edit"), *joined], 4, 200)


def fractals(editor: BackendLike, translator: BackendLike) -> Image.Image:
    """Rendered fractals, and one of them blended into a photograph."""
    bank = FractalBank(count=15)
    tiles = [Tile(bank[n], bank.name(n)) for n in range(len(bank))]
    photo = photograph("animal/raccoon.jpg")
    blended = [Tile(blend(photo, bank[9], a), f"alpha {a}") for a in (0.1, 0.2, 0.3, 0.4, 0.5)]
    return grid([*tiles, *blended], 5, 160)


def strengths(editor: BackendLike, translator: BackendLike) -> Image.Image:
    """A photograph translated to two classes, a little further each time."""
    tiles = []
    for target in CLASSES[1:]:
        tiles.append(Tile(photograph(SHOWN), f"to {target}:"))
        for strength in STRENGTHS:
            shown = translated("real-mix", target, strength, translator)
            tiles.append(Tile(list(shown.stages.values())[-1], f"{strength}", shown.shares))
        tiles.append(Tile(None, ""))
    return grid(tiles, 6, 150)


def strategies(editor: BackendLike, translator: BackendLike) -> Image.Image:
    """The three strategies that need no fine-tuning, with the labels that they give."""
    tiles = [Tile(photograph(SHOWN), "the photograph", [(CLASSES[0], 100)])]
    for strategy in STRATEGIES:
        target = CLASSES[0] if strategy == "real-aug" else CLASSES[1]
        shown = translated(strategy, target, None, translator)
        tiles.append(Tile(list(shown.stages.values())[-1], strategy, shown.shares))
    return grid(tiles, 4, 200)


GALLERIES: dict[str, Callable[[BackendLike, BackendLike], Image.Image]] = {
    draw.__name__: draw for draw in (preview, prompts, masks, fractals, strengths, strategies)
}


def main(
    out: Path = Path("runs/galleries"),
    only: list[str] | None = None,
    editor: BackendLike = "tiny-256",
    translator: BackendLike = "tiny-translate",
) -> list[Path]:
    """Draw all galleries, or those of these names, and return their files."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name in only or GALLERIES:
        picture = GALLERIES[name](editor, translator)
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
    def draw(out: Path = Path("runs/galleries"), only: list[str] | None = None) -> None:
        """Draw the galleries."""
        main(out, only)

    app()
