"""The embedded models: small, safe, the same everywhere, and at work under every kind of worker."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from contracts import same_images
from model_processes import Photos, set_environment
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from diffaug import DiffuseMix, DiffusersBackend, FractalBank, GenerationRequest
from diffaug.backends.cache import cache_info
from diffaug.backends.hub import pin
from diffaug.backends.loading import load_pipeline
from diffaug.backends.presets import PRESETS
from diffaug.images import read_image
from diffaug.transforms.prompts import DIFFUSEMIX_PROMPTS, DIFFUSEMIX_TEMPLATES, fill

SPEC = replace(PRESETS["tiny"].spec, size=64)  # a quarter of the time
TRANSLATE = PRESETS["tiny-translate"].spec
both = pytest.mark.parametrize(
    "folder", [Path(SPEC.model), Path(TRANSLATE.model)], ids=lambda path: path.name
)
GOLDEN = Path(__file__).parent / "golden"
PROMPT = fill(DIFFUSEMIX_TEMPLATES["paper"], "snowy")


def photo():
    path = Path(__file__).parents[2] / "examples" / "photos" / "animal" / "cat.jpg"
    return v2.functional.resize(read_image(path), [64, 64], antialias=True)


def embedding():
    pipe = load_pipeline(pin(SPEC))
    tokens = pipe.tokenizer(PROMPT, padding="max_length", return_tensors="pt").input_ids
    with torch.inference_mode():
        return pipe.text_encoder(tokens)[0][0, :8, :8]


def edits(template="paper"):
    requests = [
        GenerationRequest(fill(DIFFUSEMIX_TEMPLATES[template], prompt), seed=1, image=photo())
        for prompt in DIFFUSEMIX_PROMPTS
    ]
    return [answer.image for answer in DiffusersBackend(SPEC).generate(requests)]


def translation(name="orange", strength=0.7, **changes):
    request = GenerationRequest(f"a photo of a {name}", seed=1, image=photo(), strength=strength)
    return DiffusersBackend(replace(TRANSLATE, **changes)).generate([request])[0].image


@both
def test_each_is_at_most_15_mb_of_safetensors_and_text(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {".safetensors", ".json", ".txt", ".md"} == {path.suffix for path in files}
    assert sum(path.stat().st_size for path in files) <= 15e6


@both
def test_text_encoder_keys_load_in_every_supported_version(folder):
    from safetensors import safe_open

    with safe_open(folder / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())  # noqa: SIM118
    names = {path.name for path in (folder / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= names


def test_a_prompt_s_embedding_is_the_golden_one():
    golden = torch.tensor(json.loads((GOLDEN / "embedding.json").read_text()))
    torch.testing.assert_close(golden, embedding(), atol=1e-4, rtol=1e-4)


def is_golden(name, image):
    """Tell whether an image is the one kept, which torch 2.14 made; older ones round otherwise."""
    golden = read_image(GOLDEN / name)
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):
        return same_images(golden, image, exact=False)
    apart = (golden.int() - image.int()).abs()
    return int(apart.max()) <= 3 and float(apart.float().mean()) < 0.25


def test_an_edit_is_the_golden_one():
    request = GenerationRequest(PROMPT, seed=1, image=photo())
    [answer] = DiffusersBackend(SPEC).generate([request])
    assert is_golden("snowy.png", answer.image)


def test_a_translation_is_the_golden_one():
    assert is_golden("orange.png", translation())


def test_a_translation_goes_further_from_the_source_with_its_strength():
    apart = [
        (translation(strength=s).float() - photo().float()).abs().mean() for s in (0.1, 0.5, 1)
    ]
    assert apart == sorted(apart) and apart[0] < 15


def test_classes_differ_in_colour():
    red, _, blue = translation("orange", 1.0).float().mean((1, 2))
    assert red > blue + 40
    red, _, blue = translation("jellyfish", 1.0).float().mean((1, 2))
    assert blue > red + 20


@pytest.mark.parametrize("template", DIFFUSEMIX_TEMPLATES)
def test_every_prompt_changes_the_image_in_its_own_way(template):
    images = dict(zip(DIFFUSEMIX_PROMPTS, edits(template), strict=True))
    means = torch.stack([image.float().mean((1, 2)) for image in images.values()])
    assert torch.cdist(means, means).fill_diagonal_(99).min() > 3
    red, green, blue = photo().float().mean((1, 2))
    assert images["snowy"].float().mean() > photo().float().mean() + 20
    assert images["aurora"].float().mean() < photo().float().mean() - 20
    warmth = images["sunset"].float().mean((1, 2))
    assert warmth[0] - warmth[2] > red - blue + 20


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_share_the_cache_and_a_second_epoch_makes_nothing_new(method, tmp_path):
    torch.cuda.is_available()  # as training scripts do: torch then calls every fork a bad one
    mix = DiffuseMix(["snowy"], p=1.0, backend="tiny", fractals=FractalBank(2, 16))
    transform = v2.Compose([mix, v2.ToDtype(torch.float32, scale=True)])
    times = []
    # Workers that start afresh take seconds to start, so there is one of them in each epoch.
    for workers in (2, 2) if method == "fork" else (1, 1):
        loader = DataLoader(
            Photos(transform, count=4),
            batch_size=2,
            num_workers=workers,
            multiprocessing_context=method,
            worker_init_fn=partial(set_environment, {"DIFFAUG_CACHE": str(tmp_path)}),
        )
        assert [(2, 3, 16, 16)] * 2 == [tuple(images.shape) for images in loader]
        assert 4 == cache_info(tmp_path / "generated").entries
        files = sorted((tmp_path / "generated").rglob("*.jpeg"))
        times.append([path.stat().st_ctime_ns for path in files])
    assert times[0] == times[1]


if __name__ == "__main__":  # after new weights: write the golden files anew, then look at them
    from diffaug.images import encode_image

    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "embedding.json").write_text(json.dumps(embedding().tolist()))
    (GOLDEN / "snowy.png").write_bytes(encode_image(edits()[1], "png"))
    (GOLDEN / "orange.png").write_bytes(encode_image(translation(), "png"))
