"""One step of fine-tuning: what changes, what stays, and that it follows from the seed alone."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from tiny_pipelines import SIZE, model_folder, save_classes, tiny_spec

from diffaug import ModelSpec
from diffaug.backends.loading import load_pipeline
from diffaug.errors import GenerationError
from diffaug.finetuning.data import TrainingSet
from diffaug.finetuning.settings import Settings, base_spec, choose_precision
from diffaug.finetuning.trainer import LearnedRows, Trainer

SETTINGS = Settings(
    seed=0,
    steps=4,
    rank=2,
    learning_rate=1e-3,
    embedding_learning_rate=1e-2,
    batch_size=4,
    gradient_accumulation=1,
    gradient_checkpointing=False,
    mixed_precision="no",
    min_snr_gamma=None,
    balanced=False,
    metaclass="bird",
    initial_token=None,
    shots=None,
    checkpoint_every=500,
    sample_every=0,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return save_classes(tmp_path_factory.mktemp("photos"), a=3, b=2, c=1)


@pytest.fixture
def make(tree):
    """Make trainers, and close them at the end."""
    trainers = []

    def make(precision="no", rank=0, world=1, **changes):
        dtype = "bfloat16" if precision == "bf16" else "float32"
        pipe = load_pipeline(tiny_spec("translate", dtype=dtype))
        sampler = TrainingSet(tree).sampler([], SIZE, False)
        settings = replace(SETTINGS, **changes)
        trainers.append(Trainer(pipe, sampler, 3, settings, precision, rank, world))
        return trainers[-1]

    yield make
    for trainer in trainers:
        trainer.close()


def weights(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.learning.items()}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_only_the_lora_and_the_new_rows_change(make, precision):
    trainer = make(precision)
    parts = {
        f"{part}.{name}": (weight, weight.detach().clone())
        for part in ("unet", "vae", "text_encoder")
        for name, weight in getattr(trainer.pipe, part).named_parameters()
    }
    for _ in range(2):
        assert 0 < trainer.train() < 10
    changed = {name for name, (now, before) in parts.items() if not torch.equal(now, before)}
    learning = {name for name in parts if ".lora_" in name or name.endswith("token_embedding.rows")}
    assert learning == changed
    assert {torch.float32} == {parts[name][0].dtype for name in learning}
    frozen = torch.bfloat16 if precision == "bf16" else torch.float32
    assert {frozen} == {parts[name][0].dtype for name in parts.keys() - learning}


def test_every_attention_learns_in_its_four_places(make):
    trainer = make()
    attentions = {
        f"{name}.{layer}.lora_{matrix}.default.weight"
        for name, module in trainer.pipe.unet.named_modules()
        if type(module).__name__ == "Attention"
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
        for matrix in "AB"
    }
    assert attentions and attentions == trainer.learning.keys() - {"embeddings"}
    assert {2} == {min(weight.shape) for name, weight in trainer.learning.items() if "lora" in name}


def test_all_words_start_from_one_word_and_the_lora_from_zero(make):
    from peft.tuners.lora import LoraLayer

    before = torch.get_rng_state()
    trainer = make()
    assert torch.equal(before, torch.get_rng_state())
    table = trainer.pipe.text_encoder.get_input_embeddings().table.weight
    initial = trainer.pipe.tokenizer.convert_tokens_to_ids("b")  # of "bird"
    assert torch.equal(table[initial].expand(3, -1), trainer.rows)
    for name, weight in trainer.learning.items():
        if ".lora_" in name:
            assert ("lora_B" in name) == bool((weight == 0).all())
    layers = [module for module in trainer.pipe.unet.modules() if isinstance(module, LoraLayer)]
    assert {1.0} == {layer.scaling["default"] for layer in layers}  # alpha is the rank
    torch.manual_seed(99)  # of no consequence
    again, other = weights(make()), weights(make(seed=1))
    assert all(torch.equal(weight, again[name]) for name, weight in trainer.learning.items())
    assert not all(torch.equal(weight, other[name]) for name, weight in trainer.learning.items())


def test_learned_rows_stand_behind_the_old_ones_and_alone_get_gradients():
    table = torch.nn.Embedding(6, 2).requires_grad_(False)
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    module = LearnedRows(table, 5, rows)  # row 5 of the table is padding that no token has
    embedded = module(torch.tensor([[0, 5, 6, 4]]))
    assert torch.equal(torch.stack([table.weight[0], *rows, table.weight[4]]), embedded[0])
    embedded.sum().backward()
    assert [[1.0, 1.0], [1.0, 1.0]] == module.rows.grad.tolist()
    assert table.weight.grad is None


def test_the_optimizer_is_the_paper_s(make):
    lora, rows = make().optimizer.param_groups
    for group, rate in ((lora, 1e-3), (rows, 1e-2)):
        assert (rate, (0.9, 0.999), 1e-2) == (group["lr"], group["betas"], group["weight_decay"])


def test_the_lora_s_gradient_is_clipped_and_that_of_the_words_is_not(make):
    trainer = make()
    with torch.no_grad():
        for name, weight in trainer.learning.items():
            weight *= 1e4 if "lora_A" in name else 1e2 if name == "embeddings" else 1
    trainer.train()
    # After one step AdamW's first moment is a tenth of the gradient that it saw.
    seen = [trainer.optimizer.state[weight]["exp_avg"].flatten() * 10 for weight in trainer.lora]
    assert 1.0 == pytest.approx(float(torch.cat(seen).norm()), rel=1e-3)


def test_an_image_of_a_step_is_the_same_in_whichever_process(make):
    first, second = make(), make(rank=1, world=2)
    for step, index in ((0, 1), (2, 3)):
        fields = zip(first.item(step, index), second.item(step, index), strict=True)
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in fields)
    assert not torch.equal(first.item(0, 0).noise, first.item(0, 1).noise)
    assert not torch.equal(first.item(0, 0).noise, first.item(1, 0).noise)


def test_processes_and_passes_share_a_batch_without_changing_its_gradient(make):
    whole = make(batch_size=5)
    loss = whole.train()
    shares = [make(rank=rank, world=2, batch_size=5) for rank in range(2)]
    assert loss == pytest.approx(sum(share.train() for share in shares), rel=1e-5)
    total = sum(share.rows.grad for share in shares)
    torch.testing.assert_close(whole.rows.grad, total, rtol=1e-4, atol=1e-7)
    passes = make(batch_size=5, gradient_accumulation=3)
    assert loss == pytest.approx(passes.train(), rel=1e-5)
    torch.testing.assert_close(whole.rows.grad, passes.rows.grad, rtol=1e-4, atol=1e-7)


def test_gradient_checkpointing_changes_no_gradient(make):
    plain, saving = make(), make(gradient_checkpointing=True)
    assert plain.train() == pytest.approx(saving.train(), rel=1e-6)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weight, saving.learning[name].detach())


def test_the_loss_is_weighted_by_min_snr_if_asked(make):
    plain, weighted = make(), make(min_snr_gamma=1.0)
    items = [plain.item(0, number) for number in range(4)]
    with torch.no_grad():
        errors = plain.denoiser.errors(items, plain.words[[item.label for item in items]])
    shares = [float(plain.denoiser.scheduler.alphas_cumprod[item.timestep]) for item in items]
    snr = [share / (1 - share) for share in shares]
    expected = sum(
        float(error) * min(ratio, 1.0) / ratio for error, ratio in zip(errors, snr, strict=True)
    )
    assert float(errors.mean()) == pytest.approx(plain.train(), rel=1e-5)
    assert expected / 4 == pytest.approx(weighted.train(), rel=1e-4)


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_training_resumes_from_a_state_bit_for_bit(make, precision):
    straight = make(precision)
    losses = [straight.train() for _ in range(4)]
    first = make(precision)
    assert losses[:2] == [first.train() for _ in range(2)]
    second = make(precision)
    second.restore(*first.state())
    assert losses[2:] == [second.train() for _ in range(2)]
    (expected, expected_texts), (tensors, texts) = straight.state(), second.state()
    assert expected.keys() == tensors.keys() and expected_texts == texts
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in expected.items())


def test_an_overflow_in_half_precision_skips_one_update(make):
    trainer = make("fp16")
    trainer.train()
    before, (tensors, texts) = weights(trainer), trainer.state()
    scaler = {**json.loads(texts["scaler"]), "scale": 2.0**120}
    trainer.restore(tensors, {**texts, "scaler": json.dumps(scaler)})
    trainer.train()
    assert (2, 2.0**119) == (trainer.step, json.loads(trainer.state()[1]["scaler"])["scale"])
    assert all(torch.equal(weight, before[name]) for name, weight in weights(trainer).items())


def test_a_failure_that_mostly_means_short_memory_is_told_with_its_reason(make, monkeypatch):
    """No smaller batch is tried, so nobody can know."""

    def fail(*_, **__):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling")

    trainer = make(batch_size=2)
    monkeypatch.setattr(torch.Tensor, "backward", fail)
    message = (
        r"batch of 2 images fails on cpu, mostly for want of memory \(CUDA error: CUBLAS.*; ra"
    )
    with pytest.raises(GenerationError, match=message):
        trainer.train()


@pytest.mark.parametrize("moment", ["backward", "optimizer"])
def test_short_memory_is_an_error_with_the_next_step(make, monkeypatch, moment):
    """The optimizer allocates its moments in its first step."""
    trainer = make(batch_size=2)

    def fail(*_, **__):
        raise RuntimeError("CUDA error: out of memory")

    if moment == "backward":
        monkeypatch.setattr(torch.Tensor, "backward", fail)
    else:
        monkeypatch.setattr(trainer.optimizer, "step", fail)
    with pytest.raises(GenerationError, match="a batch of 2 images does not fit on cpu; raise"):
        trainer.train()


def test_a_loss_that_is_no_number_is_an_error_and_changes_nothing(make):
    trainer = make()
    with torch.no_grad():
        trainer.rows.fill_(torch.nan)
    with pytest.raises(GenerationError, match="the loss of step 0 is nan; lower the learning"):
        trainer.train()
    assert 0 == trainer.step and not trainer.optimizer.state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "'seed' must be at least 0, got -1"),
        ({"steps": 0}, "'steps' must be at least 1, got 0"),
        ({"rank": 0}, "'rank' must be at least 1, got 0"),
        ({"rank": 2.5}, "'rank' must be an integer, got 2.5"),
        ({"batch_size": 0}, "'batch_size' must be at least 1"),
        ({"gradient_accumulation": 0}, "'gradient_accumulation' must be at least 1"),
        ({"learning_rate": -1e-5}, "'learning_rate' must be above 0 and finite, got -1e-05"),
        ({"learning_rate": float("nan")}, "'learning_rate' must be above 0 and finite, got nan"),
        ({"embedding_learning_rate": "fast"}, "'embedding_learning_rate' must be a number"),
        ({"min_snr_gamma": 0}, "'min_snr_gamma' must be above 0 and finite, got 0"),
        ({"mixed_precision": "fp8"}, "'mixed_precision' must be one of auto, no, fp16, bf16"),
        ({"shots": 0}, "'shots' must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "'checkpoint_every' must be at least 1, got 0"),
        ({"sample_every": -1}, "'sample_every' must be at least 0, got -1"),
        ({"metaclass": None}, "'metaclass' must be a string, got None"),
        ({"metaclass": 3}, "'metaclass' must be a string, got 3"),
        ({"metaclass": "<bird>"}, "'metaclass' must be plain words without < and >"),
        ({"initial_token": 3}, "'initial_token' must be a string, got 3"),
        ({"initial_token": " "}, "'initial_token' must be one word, or None"),
    ],
)
def test_a_setting_outside_its_range_is_named(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Settings(**{**asdict(SETTINGS), **changes})


def test_the_precision_suits_the_device():
    cpu = torch.device("cpu")
    assert "no" == choose_precision("auto", cpu)
    assert "bf16" == choose_precision("bf16", cpu)
    with pytest.raises(ValueError, match="must be 'no' or 'bf16' on a CPU, got 'fp16'"):
        choose_precision("fp16", cpu)


def test_a_base_is_a_preset_a_folder_an_id_or_a_spec():
    assert "sd15" == base_spec("sd15", None, "auto").model.replace(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"
    )
    assert SIZE == base_spec(model_folder("translate"), None, "cpu").size
    assert 32 == base_spec(model_folder("translate"), 32, "cpu").size
    assert "translate" == base_spec("org/name", None, "auto").task
    spec = ModelSpec("org/name", task="generate")
    assert spec == base_spec(spec, None, "auto")


def test_a_base_that_cannot_be_fine_tuned_is_refused_by_its_small_files(tmp_path):
    with pytest.raises(ValueError, match="'base' must translate .* 'tiny' edits them; try 'sd15'"):
        base_spec("tiny", None, "auto")
    with pytest.raises(ValueError, match="'size' must be a positive multiple of 8, got 20"):
        base_spec("sd15", 20, "auto")
    folder = shutil.copytree(model_folder("translate"), tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    for changes, message in (
        ({"unet": [None, None]}, "the unet of '.*model' is absent; try 'sd15'"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "text_encoder of .* is T5Encoder"),
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "the text_encoder_2 of .* is CLIP"),
    ):
        (folder / "model_index.json").write_text(json.dumps({**index, **changes}))
        with pytest.raises(ValueError, match=message):
            base_spec(ModelSpec(folder, task="translate"), None, "auto")
