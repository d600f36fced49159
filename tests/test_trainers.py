"""Every recipe of docs/trainers.md trains, and each label at the loss is true of its image.

The photographs have one colour each: red for class 0, green for class 1, blue for class 2. The
backend paints a translation in the mixture of source and target that its strength gives. So the
mean colour of an image is its soft label, also after crops, flips, CutMix and MixUp.
"""

import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from child_process import LIMIT, command, environment
from image_folders import save
from torch import nn
from torch.utils.data import DataLoader

from diffaug import DiffMix, Generated, JointTransform, MixCollate, RecordingBackend

PAGE = Path(__file__).parents[1] / "docs" / "trainers.md"
NAMES = ["cat", "dog", "eel"]
COUNTS = [8, 8, 4]
PHOTOS, EPOCHS, STEPS = sum(COUNTS), 10, 50
#: The largest distance between a label and a colour of 8 bits.
NEAR = 0.003

#: What each recipe needs beyond diffaug's own dependencies, by the heading of its section.
NEEDS = {
    "A plain loop": [],
    "CutMix and MixUp after diffaug": [],
    "Lightning": ["pytorch_lightning"],
    "timm": ["timm"],
    "Hugging Face's Trainer": ["datasets"],
    "Hugging Face's `set_transform`": ["datasets"],
    "Accelerate": [],
    "kornia": [],
    "albumentations": ["albumentations"],
    "fastai": ["fastai"],
    "skorch": ["skorch"],
    "WebDataset and other streams": ["webdataset"],
}
WITHOUT_EPOCHS = (
    "timm",
    "CutMix and MixUp after diffaug",
    "Hugging Face's `set_transform`",
    "WebDataset and other streams",
)
DISTRIBUTED = "Several GPUs with torchrun"

#: What is other here than on the page.
CHANGES = {
    'backend="tiny-translate"': "backend=painter",
    "sample_photos()": '"photos"',
    "resnet18(num_classes=classes)": "small(classes)",
    "epochs = 2": f"epochs = {EPOCHS}",
    "is_training=True,\n": "is_training=True, color_jitter=None, mean=(0,) * 3, std=(1,) * 3,\n",
    'report_to="none"': 'report_to="none", use_cpu=True',
    "L.Trainer(": 'L.Trainer(accelerator="cpu", ',
}


class Painter(RecordingBackend):
    """A backend that paints the mixture of the source's colour and that of the class asked for."""

    def generate(self, requests):
        return [self.paint(request) for request in requests]

    def paint(self, request):
        source = request.image.float().mean((1, 2)) / 255
        target = torch.eye(3)[[name in request.prompt for name in NAMES].index(True)]
        weight = request.strength**0.5
        colour = (255 * ((1 - weight) * source + weight * target)).round().to(torch.uint8)
        return Generated(colour[:, None, None].expand(3, self.size, self.size), request.seed)


class Watch:
    """The images that a model is shown and the labels that its loss gets, batch by batch."""

    def __init__(self):
        self.images = None
        self.steps = []
        self.cross_entropy = nn.functional.cross_entropy

    def see(self, module, inputs):
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and torch.is_grad_enabled():
            self.images = inputs[0].detach().cpu()

    def loss(self, logits, labels, *args, **kwargs):
        if torch.is_grad_enabled():
            self.steps.append((self.images, labels.detach().cpu()))
        return self.cross_entropy(logits, labels, *args, **kwargs)


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(nn.functional, "cross_entropy", watch.loss)
    handle = nn.modules.module.register_module_forward_pre_hook(watch.see)
    yield watch
    handle.remove()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of photographs, in the working directory."""
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec("datasets"):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for number, (name, count) in enumerate(zip(NAMES, COUNTS, strict=True)):
        for photo in range(count):
            pixels = torch.zeros(3, 20, 24, dtype=torch.uint8)
            pixels[number] = 255
            save(Path("photos", name, f"{photo}.png"), pixels)
    yield
    if "accelerate.state" in sys.modules:  # which other tests would find as a recipe left it
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


def sections():
    """Return the code of each section of the page by its heading."""
    _, *rest = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.M)
    texts = dict(zip(rest[::2], rest[1::2], strict=True))
    codes = {name: re.findall(r"```python\n(.*?)```", text, re.S) for name, text in texts.items()}
    return {name: "\n".join(blocks) for name, blocks in codes.items() if blocks}


def small(classes):
    """A classifier that takes a moment to train."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


def run(*recipes, changes=None):
    """Run recipes, and return their variables."""
    names = {"__name__": "__main__", "painter": Painter(), "recorder": RecordingBackend()}
    names["small"] = small
    changes = CHANGES | (changes or {})
    assert all(old in PAGE.read_text() for old in changes)
    for section in recipes:
        code = sections()[section]
        for old, new in changes.items():
            code = code.replace(old, new)
        exec(compile(code, f"trainers.md, {section}", "exec"), names)
    return names


def check_labels(steps):
    """Check that each label is true of its image, and that images were translated."""
    for images, labels in steps:
        torch.testing.assert_close(images.mean((2, 3)), labels, atol=NEAR, rtol=0)
    labels = torch.cat([labels for _, labels in steps])
    assert EPOCHS * PHOTOS == len(labels)
    assert 0.1 < (labels.amax(1) < 0.99).float().mean() < 0.6


def check_epochs(steps, data, *, told=True):
    """Check that each epoch trained on what the dataset gives in the epoch of this number.

    If it was not told the number, that is what it gives when it is read for the n-th time.
    """
    labels = torch.cat([labels for _, labels in steps])
    data.set_epoch(0)
    for epoch, rows in enumerate(labels.split(PHOTOS)):
        if told:
            data.set_epoch(epoch)
        samples = [data[index] for index in range(PHOTOS)]
        expected = [s["labels"] if isinstance(s, dict) else s[1] for s in samples]
        assert ordered(expected) == ordered(rows), f"epoch {epoch}"
    assert EPOCHS == len({tuple(ordered(rows)) for rows in labels.split(PHOTOS)})


def ordered(rows):
    return sorted(tuple(row.tolist()) for row in rows)


def test_every_recipe_of_the_page_is_run():
    assert {DISTRIBUTED, *NEEDS} == set(sections())


@pytest.mark.parametrize("recipe", NEEDS)
def test_a_recipe_trains_on_labels_that_are_true_of_their_images(recipe, photos, watch):
    for package in NEEDS[recipe]:
        pytest.importorskip(package)
    names = run(recipe)
    assert STEPS == len(watch.steps)
    check_labels(watch.steps)
    # Streams and columns have no epochs, and some recipes mix the batches once more.
    if recipe not in WITHOUT_EPOCHS:
        check_epochs(watch.steps, names["data"])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("callback", [", callbacks=[SetEpoch()]", ""])
def test_lightning_draws_anew_in_workers_that_live_on_with_its_callback_and_without(
    callback, photos, watch
):
    pytest.importorskip("pytorch_lightning")
    workers = "shuffle=True, num_workers=2, persistent_workers=True,"
    changes = {", callbacks=[SetEpoch()]": callback, "shuffle=True,": workers}
    data = run("Lightning", changes=changes)["data"]
    assert STEPS == len(watch.steps)
    check_labels(watch.steps)
    check_epochs(watch.steps, data, told=bool(callback))


@pytest.mark.timeout(240)
def test_timm_s_prefetcher_leaves_labels_true_of_their_images(photos, watch):
    pytest.importorskip("timm")
    changes = {
        ", mix=cutmix_or_mixup, mix_p=0.5": "",
        "use_prefetcher=False": 'device=torch.device("cpu")',
    }
    data = run("timm", changes=changes)["data"]
    assert STEPS == len(watch.steps)
    check_labels(watch.steps)
    check_epochs(watch.steps, data)


@pytest.mark.timeout(LIMIT)
def test_two_processes_of_torchrun_train_on_labels_that_are_true_of_their_images(
    photos, watch, monkeypatch
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As torchrun sets them. This process is the first of the two.
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    other = subprocess.Popen(
        command("torchrun_recipe", DISTRIBUTED, "steps.pt"),
        env=environment() | variables | {"RANK": "1"},
    )
    try:
        for name, value in {**variables, "RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        data = run(DISTRIBUTED)["data"]
        assert 0 == other.wait(LIMIT)
    finally:
        other.kill()
    ranks = [watch.steps, torch.load("steps.pt", weights_only=True)]
    assert [STEPS, STEPS] == [len(steps) for steps in ranks]
    together = [step for steps in zip(*ranks, strict=True) for step in steps]
    check_labels(together)
    check_epochs(together, data)


def test_labels_of_other_images_and_of_other_epochs_are_noticed():
    mix = DiffMix(NAMES, strategy="real-mix", backend=Painter(8), strength=[0.5, 0.9])
    pixels = torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8)
    dataset = [(pixels[index % 3], index % 3) for index in range(PHOTOS)]
    data = JointTransform(dataset, mix, seed=0)
    loader = DataLoader(data, 4, collate_fn=MixCollate(3))
    steps = []
    for epoch in range(EPOCHS):
        data.set_epoch(epoch)
        steps += list(loader)
    check_labels(steps)
    check_epochs(steps, data)
    with pytest.raises(AssertionError):
        check_labels([(images, labels.roll(1, 0)) for images, labels in steps])
    with pytest.raises(AssertionError):
        check_labels([(images, labels.roll(1, 1)) for images, labels in steps])
    with pytest.raises(AssertionError, match="epoch 1"):
        check_epochs(steps[:5] * EPOCHS, data)
    with pytest.raises(AssertionError):
        check_epochs(steps[:5], data)


# What the page says of trainers


def test_without_its_loss_the_trainer_takes_soft_labels_for_answers_of_yes_and_no(photos, watch):
    pytest.importorskip("datasets")
    loss = "    compute_loss_func=cross_entropy,\n"
    assert loss in PAGE.read_text()
    names = run("Hugging Face's Trainer", changes={loss: "", "epochs = 2": "epochs = 1"})
    assert "multi_label_classification" == names["trainer"].model.config.problem_type
    assert [] == watch.steps


def test_the_loss_for_the_trainer_is_the_mean_of_all_images_of_a_step(photos):
    pytest.importorskip("datasets")
    sizes = "per_device_train_batch_size=4"
    sgd = 'max_steps=1, optim="sgd", max_grad_norm=0.0, lr_scheduler_type="constant"'
    trained = []
    for options in (sizes, "per_device_train_batch_size=2, gradient_accumulation_steps=2"):
        torch.manual_seed(0)
        changes = {sizes: f"{options}, {sgd}, learning_rate=1.0"}
        model = run("Hugging Face's Trainer", changes=changes)["trainer"].model
        trained.append(model.classifier.weight.detach())
    torch.testing.assert_close(*trained)


def test_fastai_calls_a_class_for_images_with_the_image_of_training_alone(photos, watch):
    vision = pytest.importorskip("fastai.vision.all")
    changes = {'backend="tiny"': "backend=recorder", "epochs = 2": "epochs = 1"}
    names = run("fastai", changes=changes)
    augment = names["Augment"]()
    image = vision.PILImage.create(torch.zeros(20, 24, 3, dtype=torch.uint8).numpy())
    changed, label = augment((image, vision.TensorCategory(1)), split_idx=0)
    assert 1 == label and (24, 20) == changed.size
    assert (image, 1) == augment((image, 1), split_idx=1)


@pytest.mark.timeout(120)
def test_enabled_reaches_workers_that_live_on_and_attributes_do_not():
    mix = DiffMix(NAMES, strategy="real-mix", pairs="other", p=0.5, backend=Painter(8))
    dataset = [(torch.zeros(3, 8, 8), index % 3) for index in range(12)]
    data = JointTransform(dataset, mix, seed=0)
    loader = DataLoader(
        data, 4, num_workers=2, persistent_workers=True, collate_fn=MixCollate(3), timeout=100
    )

    def translated(epoch):
        data.set_epoch(epoch)
        return sum(int((labels.amax(1) < 1).sum()) for _, labels in loader)

    assert 0 < translated(0)
    mix.p = 0.0
    assert 0 < translated(1)
    data.enabled = False
    assert 0 == translated(2)


def test_losses_take_soft_labels_as_the_page_says():
    logits, labels = torch.randn(4, 3), torch.rand(4, 3).softmax(1)
    loss, logs = nn.functional.cross_entropy, logits.log_softmax(1)
    torch.testing.assert_close(-(labels * logs).sum(1).mean(), loss(logits, labels))
    smooth = 0.9 * labels + 0.1 / 3
    torch.testing.assert_close(loss(logits, smooth), loss(logits, labels, label_smoothing=0.1))
    weight, hard = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 1, 2, 2])
    divided_by_images = -(weight * labels * logs).sum() / 4
    torch.testing.assert_close(divided_by_images, loss(logits, labels, weight=weight))
    one_hot = nn.functional.one_hot(hard, 3).float()
    by_number, by_weight = loss(logits, hard, weight=weight), loss(logits, one_hot, weight=weight)
    torch.testing.assert_close(by_number * weight[hard].sum(), by_weight * 4)
    with pytest.raises(RuntimeError):
        nn.functional.nll_loss(logs, labels)
