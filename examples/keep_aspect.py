"""Compare a model that works at squares with one that works at the shape of each image.

python examples/keep_aspect.py --picture keep_aspect.png

Each row shows a strip of a photograph, three times as wide as high, then its edit at a square and
at its own shape, for each style.
"""

from dataclasses import replace
from pathlib import Path

import typer
from PIL import Image

from diffaug import PromptEdit, load_image
from diffaug.backends.presets import resolve

PHOTOS = Path(__file__).parent / "photos"
WIDTH, HEIGHT, GAP = 264, 88, 4


def strip(path: Path) -> Image.Image:
    """Cut the middle of a photograph, three times as wide as high."""
    photo = load_image(path).convert("RGB")
    height = photo.width // 3
    top = (photo.height - height) // 2
    return photo.crop((0, top, photo.width, top + height))


def main(
    source: Path = PHOTOS,
    picture: Path = Path("runs/keep_aspect.png"),
    backend: str = "tiny",
    styles: tuple[str, str] = ("snowy", "sunset"),
    count: int = 3,
) -> Path:
    """Write the comparison as a picture, and return where it is."""
    spec = resolve(backend)
    edits = [
        PromptEdit([style], backend=replace(spec, keep_aspect=keep), cache=False)
        for style in styles
        for keep in (False, True)
    ]
    rows = []
    for path in sorted(source.glob("*/*.jpg"))[:count]:
        photo = strip(path)
        rows.append([photo, *(edit(photo) for edit in edits)])
    sheet = Image.new("RGB", (len(rows[0]) * (WIDTH + GAP), len(rows) * (HEIGHT + GAP)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image.resize((WIDTH, HEIGHT)), (x * (WIDTH + GAP), y * (HEIGHT + GAP)))
    picture.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(picture)
    print(f"a photograph, then at a square and at its own shape: {', '.join(styles)}; in {picture}")
    return picture


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app()
