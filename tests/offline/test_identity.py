"""What identifies a run, in values that JSON can hold and another process finds the same."""

import json
from pathlib import Path

import torch
from torchvision.transforms import v2

from diffaug import (
    Backend,
    DiffuseMix,
    DiffusersBackend,
    FractalBank,
    HalfConcat,
    ModelSpec,
    PromptEdit,
    RecordingBackend,
)
from diffaug.backends.cache import CachedBackend
from diffaug.offline.identity import identity, pinned, settings_of


def mixer(**options):
    bank = FractalBank(count=2, size=16)
    return DiffuseMix(**{"backend": RecordingBackend(), "fractals": bank, **options})


def test_settings_are_plain_and_the_same_for_equal_transforms():
    assert settings_of(mixer()) == json.loads(json.dumps(settings_of(mixer())))


def test_every_setting_that_changes_an_image_shows():
    changes = [
        {"prompts": ["a"]},
        {"recipe": "release"},
        {"alpha": 0.5},
        {"variants": 2},
        {"seed": 1},
        {"masks": "genmix"},
        {"fractals": FractalBank(count=3, size=16)},
    ]
    found = [json.dumps(settings_of(mixer(**change))) for change in [{}, *changes]]
    assert len(found) == len(set(found))


def test_p_and_the_cache_do_not_show():
    assert settings_of(mixer(p=0.1, cache=False)) == settings_of(mixer(p=1.0))


def test_foreign_transforms_show_without_their_address():
    for call in (
        v2.RandomInvert(p=1),
        torch.flip,
        lambda image: image,
        Path("x").joinpath,
    ):
        settings = json.dumps(settings_of(HalfConcat(call)))
        assert " at 0x" not in settings
    inverts = [settings_of(HalfConcat(v2.RandomInvert(p=p))) for p in (0.1, 0.2)]
    assert inverts[0] != inverts[1]


def test_a_folder_is_its_weights_wherever_it_lies(tmp_path):
    found = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text('{"_class_name": "X"}')
        spec = pinned(ModelSpec(str(tmp_path / name), batch_size=len(found) + 1))
        found.append(identity(PromptEdit(backend=spec), spec, {"seed": 0}))
    assert found[0] == found[1]
    assert "model.model" not in found[0]


def test_the_model_of_a_wrapped_backend_is_found():
    backend = RecordingBackend()
    backend.spec = ModelSpec("org/name", revision="0" * 40, size=64)
    assert backend.spec == pinned(CachedBackend(backend))
    assert pinned(RecordingBackend()) is None
    assert pinned(None) is None


def test_a_folder_of_fractals_is_its_pictures(tmp_path):
    found = []
    for names in (["a.png"], ["a.png"], ["a.png", "b.png"]):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        found.append(settings_of(mixer(fractals=folder)))
    assert found[0] == found[1]
    assert found[0] != found[2]


class Sharpened(Backend):
    """Change what the backend inside makes, and say so in the fingerprint."""

    def __init__(self, backend):
        self.backend = backend

    @property
    def fingerprint(self):
        return f"sharpened-{self.backend.fingerprint}"


def test_a_backend_that_changes_images_is_not_taken_for_the_model_inside():
    inner = DiffusersBackend(ModelSpec("org/name", revision="0" * 40, size=64))
    recorded = []
    for backend in (inner, CachedBackend(Sharpened(inner))):
        edit = PromptEdit(backend=backend)
        recorded.append(identity(edit, pinned(backend), {})["fingerprint"])
    assert [inner.fingerprint, f"sharpened-{inner.fingerprint}"] == recorded
