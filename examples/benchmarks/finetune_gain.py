"""Measure what fine-tuning the embedded base gains: held-out loss, and classes recognised.

    python examples/benchmarks/finetune_gain.py --data 'train.parquet' --val 'val.parquet' \
        --classes 'brown bear' 'golden retriever' 'ice cream' ladybug --steps 600 \
        --json docs/benchmarks/finetune.json

`--data` and `--val` are Parquet files or class folders, as for `train_tiny_translate.py`. A small
ResNet, trained on all photographs of `--data`, judges generated images, which it has never seen.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_resnet import SmallResNet, predict
from tiny_data import load_labelled
from tiny_judge import train_judge

from diffaug import DiffusersBackend, GenerationRequest, ModelSpec, finetune
from diffaug.backends import finetuned
from diffaug.backends.hub import pin
from diffaug.backends.loading import load_pipeline
from diffaug.backends.presets import resolve
from diffaug.finetuning.data import square
from diffaug.finetuning.loss import Denoiser
from diffaug.seeds import derive_seed


@torch.inference_mode()
def recognised(judge: SmallResNet, images: Tensor, wanted: Tensor) -> dict[str, float]:
    """Return the share of images that the judge names as wanted, and its mean probability."""
    probabilities = judge(images.float() / 255).softmax(1)
    return {
        "named": (probabilities.argmax(1) == wanted).float().mean().item(),
        "probability": probabilities.gather(1, wanted[:, None]).mean().item(),
    }


@torch.no_grad()
def noise_loss(spec: ModelSpec, images: Tensor, prompts: list[str], seed: int, draws: int) -> float:
    """Return how far a model's noise prediction is off, for the same noise and timesteps each time.

    The mean is over `draws` timesteps of each image's middle square.
    """
    denoiser = Denoiser(load_pipeline(pin(spec)))
    total = 0.0
    for index, (image, words) in enumerate(zip(images, denoiser.words(prompts), strict=True)):
        pixels = square(image, spec.size)
        generators = [
            torch.Generator().manual_seed(derive_seed(seed, index, draw)) for draw in range(draws)
        ]
        items = [denoiser.with_noise(pixels, 0, generator) for generator in generators]
        total += denoiser.errors(items, words.expand(draws, -1)).mean().item()
    return total / len(images)


def generate(
    spec: ModelSpec, prompts: list[str], each: int, sources: Tensor | None, strength: float
) -> Tensor:
    """Return `each` images for every prompt, in order; translated from sources if given."""
    requests = [
        GenerationRequest(
            prompt, seed=index * each + copy,
            image=None if sources is None else sources[(index * each + copy) % len(sources)],
            strength=None if sources is None else strength,
        )
        for index, prompt in enumerate(prompts)
        for copy in range(each)
    ]  # fmt: skip
    task = "generate" if sources is None else "translate"
    with DiffusersBackend(ModelSpec(**{**vars(spec), "task": task})) as backend:
        return torch.stack([generated.image for generated in backend.generate(requests)])


def main(
    data: str,
    val: str,
    classes: list[str] | None = None,
    *,
    base: str = "tiny-translate",
    work: str | Path | None = None,
    shots: int | None = None,
    steps: int = 600,
    learning_rate: float = 1e-3,
    embedding_learning_rate: float = 1e-2,
    strength: float = 0.7,
    each: int = 25,
    judge_steps: int = 400,
    draws: int = 8,
    held_out: int = 50,
    seed: int = 0,
    sheet: str | Path | None = None,
) -> dict[str, object]:
    """Fine-tune, measure before and after, and return every figure."""
    started = time.monotonic()
    work = Path(work or tempfile.mkdtemp(prefix="diffaug-"))
    images, labels, names = load_labelled(data, tuple(classes) if classes else None)
    others, truths, _ = load_labelled(val, tuple(names))
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        file = work / "photos" / names[label] / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_image(image / 255, file)
    judge = train_judge(images, labels, len(names), steps=judge_steps, device="cpu")

    done = finetune(
        work / "photos", work / "tuned", base=base, shots=shots, seed=seed, steps=steps,
        learning_rate=learning_rate, embedding_learning_rate=embedding_learning_rate,
        progress=True,
    )  # fmt: skip
    tuned = finetuned.read(work / "tuned")
    prompts = {
        "before": [finetuned.class_prompt(name) for name in names],
        "after": [tuned.prompt(name) for name in names],
    }
    specs = {"before": resolve(base), "after": resolve(work / "tuned")}
    chosen = torch.linspace(0, len(others) - 1, min(held_out, len(others))).long()
    wanted = torch.arange(len(names)).repeat_interleave(each)
    # A photograph of another class for each prompt: they are in the order of the classes.
    sources = others[truths.argsort(stable=True)].roll(len(others) // 2, 0)
    figures: dict[str, object] = {}
    rows = []
    for when, spec in specs.items():
        texts = [prompts[when][int(truths[index])] for index in chosen]
        samples = generate(spec, prompts[when], each, None, strength)
        translated = generate(spec, prompts[when], each, sources, strength)
        rows += [samples.view(len(names), each, *samples.shape[1:])[:, :4].flatten(0, 1)]
        figures[when] = {
            "held_out_loss": noise_loss(spec, others[chosen], texts, 0, draws),
            "from_text": recognised(judge, samples, wanted),
            "translated": recognised(judge, translated, wanted),
        }
    if sheet is not None:
        save_image(make_grid(torch.cat(rows) / 255, nrow=4 * len(names)), sheet)
    return {
        "classes": names,
        "base": base,
        "settings": {
            "shots": shots, "steps": done.steps, "learning_rate": learning_rate, "seed": seed,
            "embedding_learning_rate": embedding_learning_rate, "strength": strength,
        },
        "images": {"learned_from": done.images, "generated": len(wanted), "held_out": len(chosen)},
        "judge_on_photographs": (predict(judge, others) == truths).float().mean().item(),
        **figures,
        "minutes": {"fine_tuning": done.seconds / 60, "all": (time.monotonic() - started) / 60},
        "versions": {name: metadata.version(name) for name in ("torch", "diffusers", "peft")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="photographs to learn from")
    parser.add_argument("--val", required=True, help="other photographs of the same classes")
    parser.add_argument("--classes", nargs="+", help="names [all]")
    parser.add_argument("--base", default="tiny-translate")
    parser.add_argument("--work", type=Path, help="where everything goes [a new folder]")
    parser.add_argument("--shots", type=int)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--sheet", type=Path, help="PNG of samples before and after")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = vars(parser.parse_args())
    target = options.pop("json")
    figures = main(options.pop("data"), options.pop("val"), options.pop("classes"), **options)
    text = json.dumps(figures, indent=2) + "\n"
    print(text)
    if target is not None:
        target.write_text(text)
