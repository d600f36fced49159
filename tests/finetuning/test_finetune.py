"""Fine-tuning from a folder of classes to a folder that works, with and without stops."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from ambient import AMBIENT, settings
from contracts import check_error
from gpus import on_each_device
from image_folders import contents
from safetensors.torch import load_file
from tiny_pipelines import SIZE, make_request, model_folder, save_classes, save_pipeline
from torchvision.datasets import ImageFolder

from diffaug import DiffusersBackend
from diffaug.backends import devices, finetuned
from diffaug.backends.hub import pin
from diffaug.backends.loading import load_pipeline
from diffaug.backends.presets import resolve
from diffaug.errors import DestinationError, GenerationError, ModelError, UnreadableImageError
from diffaug.finetuning import run as finetuning_run
from diffaug.finetuning import trainer
from diffaug.finetuning.data import square
from diffaug.finetuning.loss import Denoiser
from diffaug.finetuning.run import finetune
from diffaug.finetuning.run_folder import RunFolder
from diffaug.finetuning.trainer import Trainer
from diffaug.images import read_image
from diffaug.labels.few_shot import few_shot_subset

NAMES = {"Arctic_Tern": 3, "AC%2FDC": 2, "Müller": 2}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return save_classes(tmp_path_factory.mktemp("photos"), **NAMES)


def run(tree, destination, **changes):
    settings = {
        **{"base": model_folder("translate"), "metaclass": "bird", "steps": 4, "rank": 2},
        **{"batch_size": 2, "device": "cpu", "checkpoint_every": 2, "learning_rate": 1e-2},
    }
    return finetune(tree, destination, **{**settings, **changes})


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    run(tree, folder, embedding_learning_rate=1e-1, sample_every=2)
    return folder


def test_a_finished_folder_holds_what_was_learned_and_says_what_it_is(finished, tree):
    names = """README.md adapters/pytorch_lora_weights.safetensors classes.json
    embeddings.safetensors finetune.json samples/step-000002.png samples/step-000004.png"""
    assert names.split() == list(contents(finished))
    classes = json.loads((finished / "classes.json").read_text())
    tokens = {"AC%2FDC": "<class_0>", "Arctic_Tern": "<class_1>", "Müller": "<class_2>"}
    assert {"metaclass": "bird", "classes": tokens} == classes
    assert list(tokens) == list(classes["classes"])
    rows = load_file(finished / "embeddings.safetensors")
    assert dict.fromkeys(tokens.values(), (torch.float32, (16,))) == {
        token: (row.dtype, tuple(row.shape)) for token, row in rows.items()
    }
    learned = finetuned.read(finished)
    assert (None, 0, "bird") == (learned.shots, learned.seed, learned.metaclass)
    assert [f"{name}/{n}.png" for name in sorted(NAMES) for n in range(NAMES[name])] == list(
        learned.files
    )
    assert "<class_0>" == learned.token("AC/DC") and "<class_2>" == learned.token("Mu\u0308ller")
    record = json.loads((finished / "finetune.json").read_text())
    assert (4, 2, 2) == tuple(record["settings"][name] for name in ("steps", "rank", "batch_size"))
    card = (finished / "README.md").read_text()
    assert "`a photo of a <class_0> bird` for `AC%2FDC`" in card and "Classes: 3, from 7" in card
    assert (3, SIZE, 3 * SIZE) == read_image(finished / "samples" / "step-000004.png").shape


def test_what_was_learned_works_whole_and_in_part(finished):
    spec = replace(resolve(finished), device="cpu", steps=2)
    request = make_request("translate", prompt="a photo of a <class_1> bird", strength=1.0)
    whole, words = (
        DiffusersBackend(finetuned.reduce(spec, keep)).generate([request])[0].image
        for keep in ("all", "embeddings")
    )
    plain = replace(request, prompt="a photo of a b bird")  # what all words started from
    [base] = DiffusersBackend(finetuned.reduce(spec, "none")).generate([plain])
    assert not torch.equal(whole, words)
    assert not torch.equal(words, base.image)
    with pytest.raises(ValueError, match="tokens that .* has learned, got '<class_3>'"):
        DiffusersBackend(spec).generate([replace(request, prompt="a <class_3>")])
    with pytest.raises(ValueError, match="tokens that .* has learned, got '<class_1>'"):
        DiffusersBackend(finetuned.reduce(spec, "none")).generate([request])


@pytest.mark.parametrize("state", ["autocast", "float64", "inference mode", "another device"])
def test_what_is_learned_does_not_depend_on_what_a_script_has_set(finished, tree, tmp_path, state):
    with AMBIENT[state]():
        before = settings()
        run(tree, tmp_path / "run", embedding_learning_rate=1e-1)
        assert before == settings()
    for name in ("embeddings.safetensors", "adapters/pytorch_lora_weights.safetensors"):
        assert (finished / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_sample_pictures_show_the_model_at_their_step(finished):
    first, second = (finished / "samples" / f"step-00000{n}.png" for n in (2, 4))
    assert not torch.equal(read_image(first), read_image(second))


@torch.no_grad()
def held_out_loss(backend, files, prompts, draws=8):
    """Return a model's loss on the middle of each image, at fixed noise."""
    denoiser = Denoiser(load_pipeline(pin(replace(resolve(backend), device="cpu"))))
    items = [
        denoiser.with_noise(square(read_image(file), SIZE), 0, torch.Generator().manual_seed(n))
        for n, file in enumerate(files * draws)
    ]
    return float(denoiser.errors(items, denoiser.words(prompts * draws)).mean())


def test_training_lowers_the_loss_on_images_held_out(tree, tmp_path):
    held = save_classes(tmp_path / "held", **dict.fromkeys(sorted(NAMES), 5))
    source = save_classes(tmp_path / "seen", **dict.fromkeys(sorted(NAMES), 3))
    run(source, tmp_path / "run", steps=30, embedding_learning_rate=1e-2, checkpoint_every=100)
    files = [held / name / f"{n}.png" for name in NAMES for n in (3, 4)]
    tuned = finetuned.read(tmp_path / "run")
    prompts = [tuned.prompt(file.parent.name) for file in files]
    after = held_out_loss(tmp_path / "run", files, prompts)
    before = held_out_loss(model_folder("translate"), files, ["a photo of a bird"] * len(files))
    assert after < 0.98 * before


def stop_after(monkeypatch, steps, update=False):
    """Interrupt training before a step, or during the update of its weights."""
    train = Trainer.train

    def interrupted(trainer):
        if trainer.step == steps:
            trainer.whole = not update
            raise KeyboardInterrupt
        return train(trainer)

    monkeypatch.setattr(Trainer, "train", interrupted)


@pytest.mark.parametrize(("stop", "update", "kept"), [(3, False, "3"), (3, True, "2")])
def test_a_stopped_run_resumes_to_the_same_folder_bit_for_bit(
    tree, tmp_path, monkeypatch, stop, update, kept
):
    from safetensors import safe_open

    straight, stopped = tmp_path / "one" / "run", tmp_path / "other" / "run"
    before = torch.get_rng_state()
    done = run(tree, straight)
    assert torch.equal(before, torch.get_rng_state())
    with monkeypatch.context() as patch:
        stop_after(patch, stop, update)
        with pytest.raises(KeyboardInterrupt):
            run(tree, stopped)
    assert {"checkpoint.safetensors", "finetune.json"} == set(contents(stopped))
    with safe_open(stopped / "checkpoint.safetensors", "pt") as checkpoint:
        assert kept == checkpoint.metadata()["step"]
    resumed = run(tree, stopped)
    assert (4, 4, 4 - int(kept)) == (done.trained, resumed.steps, resumed.trained)
    assert contents(straight) == contents(stopped)


@on_each_device
def test_a_stopped_run_resumes_and_works_on_the_device_that_it_ran_on(
    tree, tmp_path, monkeypatch, device
):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(tree, tmp_path / "run", device=device)
    resumed = run(tree, tmp_path / "run", device=device)
    assert (4, 1) == (resumed.steps, resumed.trained) and math.isfinite(resumed.loss)
    spec = replace(resolve(tmp_path / "run"), device=device)
    request = make_request("translate", prompt="a photo of a <class_1> bird")
    [made] = DiffusersBackend(spec).generate([request])
    assert (3, SIZE, SIZE) == tuple(made.image.shape) and not made.fallback


def test_a_run_stopped_before_its_end_may_be_made_longer(tree, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(tree, tmp_path / "one" / "run", steps=3)
    with pytest.raises(DestinationError, match="seen 2 steps already, and 'steps' is 1"):
        run(tree, tmp_path / "one" / "run", steps=1)
    run(tree, tmp_path / "one" / "run")
    run(tree, tmp_path / "other" / "run")
    assert contents(tmp_path / "one" / "run") == contents(tmp_path / "other" / "run")


def test_a_checkpoint_cut_short_says_what_to_do(tree, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(tree, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    for damaged in (whole[:-9], b"", b"not at all safetensors"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(DestinationError, match="checkpoint.safetensors' is damaged .* remove"):
            run(tree, tmp_path / "run")
    checkpoint.unlink()
    assert 4 == run(tree, tmp_path / "run").trained


def test_a_finished_run_is_left_alone_and_cannot_be_made_longer(tree, tmp_path, finished):
    folder = shutil.copytree(finished, tmp_path / "run")
    again = run(tree, folder, embedding_learning_rate=1e-1)
    assert (0, 4, 3, 7, None) == (
        *(again.trained, again.steps, again.classes, again.images),
        again.loss,
    )
    assert contents(finished) == contents(folder)
    with pytest.raises(
        DestinationError, match="finished after 4 steps, and cannot be trained to 9"
    ):
        run(tree, folder, embedding_learning_rate=1e-1, steps=9)


def test_the_few_images_chosen_are_recorded_and_others_never_read(tmp_path, monkeypatch):
    tree = save_classes(tmp_path / "photos", a=4, b=3)
    keys = [f"a/{n}.png" for n in range(4)] + [f"b/{n}.png" for n in range(3)]
    chosen = [keys[index] for index in few_shot_subset(ImageFolder(tree), 2, 5)]
    for key in set(keys) - set(chosen):
        (tree / key).write_bytes(b"never read")
    done = run(tree, tmp_path / "run", shots=2, seed=5, strict=True, steps=1)
    learned = finetuned.read(tmp_path / "run")
    assert (chosen, 2, 5) == (list(learned.files), learned.shots, learned.seed)
    assert 4 == done.images


def test_an_unreadable_image_is_skipped_with_its_reason_or_refused(tmp_path):
    tree = save_classes(tmp_path / "photos", a=2, b=1)
    (tree / "a" / "1.png").write_bytes(b"")
    (tree / "beside.png").write_bytes(b"")
    (tree / "a" / "notes.txt").touch()
    done = run(tree, tmp_path / "run", steps=1)
    assert {".txt": 1} == done.left_out
    assert ["beside.png", "a/1.png"] == [image.source for image in done.skipped]
    assert 2 == done.images
    assert done.skipped == run(tree, tmp_path / "run", steps=1).skipped
    with pytest.raises(UnreadableImageError, match=r"1\.png' is not a readable image"):
        run(tree, tmp_path / "other", steps=1, strict=True)


# --------------------------------------------------------------------------------- CPU and memory


def test_training_on_a_cpu_though_there_is_a_gpu_says_why(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "why_no_gpu", lambda: "its driver is too old")
    with pytest.warns(UserWarning, match=r"on the CPU: .* \(its driver is too old\)") as caught:
        run(tree, tmp_path / "run", steps=1, device="auto")
    assert 1 == len(caught)


def test_training_of_a_big_model_on_a_cpu_says_what_to_expect(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "MOST_FOR_CPU", 1000)
    message = "'.*' learns on the CPU: expect minutes for each of 1 steps; use a GPU, or base='tiny"
    with pytest.warns(UserWarning, match=message):
        run(tree, tmp_path / "run", steps=1)


def test_a_rank_that_is_no_number_is_one_line_of_the_command(tree, tmp_path):
    command = [sys.executable, "-m", "diffaug", "finetune", tree, tmp_path / "run", "--steps", "1"]
    command += ["--base", model_folder("translate"), "--device", "cpu"]
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "LOCAL_RANK": ""},
        capture_output=True,
        text=True,
    )
    assert 2 == done.returncode
    [line] = done.stderr.splitlines()
    assert line.startswith("diffaug: error: 'LOCAL_RANK' must be the number of a process on this")


def fill(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_pictures_of_samples_that_do_not_fit_are_skipped_with_one_warning(
    finished, tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainer, "run_batch", fill)
    with pytest.warns(UserWarning, match="samples after step 2 does not fit into mem") as caught:
        run(tree, tmp_path / "run", embedding_learning_rate=1e-1, sample_every=2)
    assert 1 == len(caught)
    expected = {name: file for name, file in contents(finished).items() if "sample" not in name}
    assert expected == contents(tmp_path / "run")


def test_steps_are_saved_before_a_picture_is_made_of_them(tree, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(trainer, "run_batch", fail)
    with pytest.raises(RuntimeError, match="something else"):
        run(tree, tmp_path / "run", sample_every=2, checkpoint_every=2)
    assert "2" == saved_step(tmp_path / "run")


def saved_step(folder):
    from safetensors import safe_open

    with safe_open(folder / "checkpoint.safetensors", "pt") as checkpoint:
        return checkpoint.metadata()["step"]


def test_a_model_that_cannot_be_prepared_for_want_of_memory_is_one_line(
    tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(Trainer, "_add_lora", fill)
    message = "^the fine-tuning of '.*' does not fit into the memory of this machine; end other"
    with pytest.raises(GenerationError, match=message) as caught:
        run(tree, tmp_path / "run")
    check_error(caught.value)


def test_steps_before_memory_ran_out_are_kept_and_resumed_by_smaller_parts(
    tree, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        backward, calls = torch.Tensor.backward, []

        def full(*arguments, **settings):
            calls.append(arguments)
            return backward(*arguments, **settings) if len(calls) < 4 else fill()

        patch.setattr(torch.Tensor, "backward", full)
        with pytest.raises(GenerationError, match="batch of 2 images does not fit on cpu; raise"):
            run(tree, tmp_path / "run", checkpoint_every=100)
    assert "3" == saved_step(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "load_state_dict", fill)
        with pytest.raises(GenerationError, match="^the fine-tuning of '.*' does not fit into the"):
            run(tree, tmp_path / "run")  # which is no damaged checkpoint
    assert 1 == run(tree, tmp_path / "run", gradient_accumulation=2).trained


def test_memory_is_given_back_after_the_training(tree, tmp_path, monkeypatch):
    freed = []
    monkeypatch.setattr(finetuning_run, "free_unused", lambda: freed.append(True))
    run(tree, tmp_path / "run", steps=1)
    assert [True] == freed


@pytest.fixture
def unloaded(monkeypatch):
    """Fail if a model is loaded."""
    monkeypatch.setattr(
        finetuning_run, "load_pipeline", lambda *_, **__: pytest.fail("a model was loaded")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 3}, "'shots' must be at most the images of each class, got 3 and class 'AC%2F"),
        ({"steps": 0}, "'steps' must be at least 1, got 0"),
        ({"initial_token": "bird"}, "'initial_token' must be one token of the base model"),
        ({"metaclass": "bird " * 40}, "'metaclass' must fit into a prompt of 77 tokens"),
        ({"mixed_precision": "fp16"}, "'mixed_precision' must be 'no' or 'bf16' on a CPU"),
        ({"device": "gpu"}, "'device' must be 'auto' or a torch device"),
        ({"base": "tiny"}, "'base' must translate or generate images, and 'tiny' edits them"),
        ({"base": "sd16"}, "'base' must be a preset .* Did you mean 'sd15'"),
        ({"base": 3}, "'base' must be a name, a folder"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(tree, tmp_path, unloaded, changes, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        run(tree, tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_fine_tuned_base_is_refused(tree, tmp_path, unloaded, finished):
    with pytest.raises(
        ValueError, match="'base' must be a model, and '.*run' is fine-tuned alread"
    ):
        run(tree, tmp_path / "run", base=finished)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rank": 3}, "'rank' is 2 there and 3 here"),
        ({"metaclass": "fish"}, "'metaclass' is 'bird' there and 'fish' here"),
        ({"shots": 1}, "'shots' is None there and 1 here"),
        ({"seed": 1}, "'seed' is 0 there and 1 here"),
        ({"size": 24}, "'base.size' is 16 there and 24 here"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_what_differs(
    tree, tmp_path, unloaded, finished, changes, name
):
    with pytest.raises(DestinationError, match=f"holds a different run: {name}; choose another"):
        run(tree, finished, **{"embedding_learning_rate": 1e-1, **changes})


def test_other_images_or_another_base_make_another_run(tree, tmp_path, unloaded, finished):
    more = save_classes(tmp_path / "more", **{**NAMES, "Müller": 3})
    with pytest.raises(DestinationError, match=r"'images' is '7 \(.*' there and '8 \(.*' here"):
        run(more, finished, embedding_learning_rate=1e-1)
    other = save_pipeline(tmp_path / "other", "translate", seed=1)
    with pytest.raises(DestinationError, match="'base.revision' is 'sha256:.*' there"):
        run(tree, finished, embedding_learning_rate=1e-1, base=other)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("notes.txt", "mine", "must be empty or of this run, and it holds 'notes.txt' and no fine"),
        ("finetune.json", "{}", "finetune.json' is not diffaug's"),
        ("finetune.json", "[", "finetune.json' could not be read"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused(
    tree, tmp_path, unloaded, file, text, message
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / file).write_text(text)
    with pytest.raises(DestinationError, match=message):
        run(tree, tmp_path / "run")
    assert text == (tmp_path / "run" / file).read_text()


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(tree, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / f".diffaug.{'0a' * 8}.tmp").write_text("{")
    (folder / ".hidden").write_text("mine")
    run(tree, folder, steps=1)
    assert not list(folder.glob(".*.tmp")) and (folder / ".hidden").exists()


def test_a_folder_is_of_one_run_at_a_time_and_gone_if_nothing_came_of_it(
    tree, tmp_path, monkeypatch
):
    folder = tmp_path / "run"

    def load(spec, **_):
        with pytest.raises(DestinationError, match="is being written to by another run; wait"):
            run(tree, folder)
        raise ModelError("no such model")

    monkeypatch.setattr(finetuning_run, "load_pipeline", load)
    with pytest.raises(ModelError, match="no such model"):
        run(tree, folder)
    assert not folder.exists()


@pytest.mark.parametrize("steps", [2, 4])
def test_a_run_overtaken_by_its_like_takes_what_that_made(tree, tmp_path, monkeypatch, steps):
    enter = RunFolder.__enter__

    def late(self):
        monkeypatch.setattr(RunFolder, "__enter__", enter)
        run(tree, tmp_path / "out", steps=steps)
        made.update(contents(tmp_path / "out"))
        return enter(self)

    made = {}
    monkeypatch.setattr(RunFolder, "__enter__", late)
    if steps == 2:  # it was asked for fewer
        with pytest.raises(DestinationError, match="was finished after 2 steps, and cannot be"):
            run(tree, tmp_path / "out")
    else:
        assert 0 == run(tree, tmp_path / "out").trained
    assert made == contents(tmp_path / "out")
    assert finetuned.read(tmp_path / "out").tokens


def test_a_destination_that_is_a_file_or_in_the_source_is_refused(tree, tmp_path, unloaded):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(DestinationError, match="'.*run' could not be read: Not a directory"):
        run(tree, tmp_path / "run")
    with pytest.raises(DestinationError, match="lies inside the source"):
        run(tree, tree / "run")


def test_two_processes_make_the_weights_of_one(tmp_path):
    tree = save_classes(tmp_path / "photos", a=2, b=2)
    run(tree, tmp_path / "one", batch_size=3, steps=2, learning_rate=1e-3)
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m diffaug finetune".split()
    options = "--metaclass bird --device cpu --steps 2 --rank 2 --batch-size 3".split()
    done = subprocess.run(
        [sys.executable, *launch, tree, tmp_path / "two", "--base", model_folder("translate")]
        + [*options, "--learning-rate", "1e-3"],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert 0 == done.returncode, done.stderr
    for name in ("embeddings.safetensors", "adapters/pytorch_lora_weights.safetensors"):
        tensors = load_file(tmp_path / "two" / name)
        for key, expected in load_file(tmp_path / "one" / name).items():
            torch.testing.assert_close(expected, tensors[key], rtol=0, atol=1e-4)
