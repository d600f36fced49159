"""Tiny random pipelines on disk, through the real diffusers and transformers classes.

`save_pipeline` writes one; `model_folder` gives the one of a task, made once per process, and
`tiny_spec` a spec for it; `make_requests` gives requests that suit a task. `save_learned` writes
what fine-tuning would have made of one, and `save_classes` images to fine-tune it with.
"""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from diffaug import GenerationRequest, ModelSpec
from diffaug.backends.hub import pin
from diffaug.backends.spec import Task
from diffaug.images import encode_image

#: Side in pixels that the pipelines work at.
SIZE = 16


def tiny_spec(task: Task, **changes: Any) -> ModelSpec:
    """Describe the tiny random pipeline of a task: two steps of a 16 px model, on the CPU."""
    settings: dict[str, object] = {"size": SIZE, "steps": 2, "batch_size": 4, "device": "cpu"}
    return ModelSpec(str(model_folder(task)), task=task, **{**settings, **changes})


def make_request(
    task: Task = "edit", n: int = 0, prompt: str = "snowy", **changes: Any
) -> GenerationRequest:
    """Make a request that suits the task; `n` is its image and seed."""
    generator = torch.Generator().manual_seed(n)
    image = torch.randint(0, 256, (3, 11 + n, 20), generator=generator, dtype=torch.uint8)
    fields: dict[str, Any] = {
        "seed": n,
        "image": None if task == "generate" else image,
        "strength": 0.6 if task == "translate" else None,
    }
    return GenerationRequest(prompt, **{**fields, **changes})


def make_requests(task: Task = "edit", count: int = 5) -> list[GenerationRequest]:
    """Make requests that suit the task, each for another image."""
    return [make_request(task, n, prompt=f"prompt {n}") for n in range(count)]


@cache
def model_folder(task: Task) -> Path:
    """Make the tiny random pipeline of a task, once; do not change it, copy it."""
    # Kept in an attribute so that it lives, and goes, with the process.
    holder = tempfile.TemporaryDirectory(prefix="diffaug-tests-")
    _HOLDERS.append(holder)
    return save_pipeline(Path(holder.name) / task, task)


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def save_pipeline(folder: Path, task: Task, seed: int = 0) -> Path:
    """Write a Stable-Diffusion-shaped pipeline with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(folder / "vocabulary")
        parts = {
            "tokenizer": tokenizer,
            "text_encoder": _text_encoder(tokenizer),
            "vae": _autoencoder(),
            "unet": _unet(in_channels=8 if task == "edit" else 4),
            "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
        }
    kind = StableDiffusionInstructPix2PixPipeline if task == "edit" else StableDiffusionPipeline
    pipe = kind(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def save_xl_pipeline(folder: Path, task: Task, seed: int = 0) -> Path:
    """Write a Stable-Diffusion-XL-shaped pipeline with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(folder / "vocabulary")
        text_encoder = _text_encoder(tokenizer)
        text_encoder.config.projection_dim = 16
        pipe = StableDiffusionXLPipeline(
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            text_encoder=text_encoder,
            text_encoder_2=CLIPTextModelWithProjection(text_encoder.config),
            vae=_autoencoder(),
            unet=_unet(
                in_channels=8 if task == "edit" else 4,
                cross_attention_dim=32,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 16,
            ),
            scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def save_klein(folder: Path, seed: int = 0) -> Path:
    """Write a FLUX.2-klein-shaped pipeline with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vocabulary = _write_vocabulary(folder / "vocabulary", _symbols())
        tokenizer = Qwen2TokenizerFast.from_pretrained(vocabulary, model_max_length=512)
        tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
        text_encoder = Qwen3Config(
            vocab_size=len(tokenizer) + 4,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=28,  # the pipeline reads the 9th, 18th and 27th
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
        )
        pipe = Flux2KleinPipeline(
            tokenizer=tokenizer,
            text_encoder=Qwen3ForCausalLM(text_encoder),
            vae=AutoencoderKLFlux2(
                block_out_channels=(4, 4, 4, 4),
                norm_num_groups=2,
                latent_channels=4,
                layers_per_block=1,
                sample_size=64,
            ),
            transformer=Flux2Transformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=24,
                timestep_guidance_channels=8,
                axes_dims_rope=(2, 2, 2, 2),
                guidance_embeds=False,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            is_distilled=True,
        )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def make_kontext(seed: int = 0) -> FluxKontextPipeline:
    """Return a FLUX.1-Kontext-shaped pipeline with random weights, which reads no prompt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = FluxKontextPipeline(
            tokenizer=None,
            tokenizer_2=None,
            text_encoder=None,
            text_encoder_2=None,
            vae=AutoencoderKL(
                block_out_channels=(4, 4, 4, 4),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                norm_num_groups=2,
                latent_channels=1,
                layers_per_block=1,
                use_quant_conv=False,
                use_post_quant_conv=False,
                shift_factor=0.0,
                scaling_factor=1.0,
            ),
            transformer=FluxTransformer2DModel(
                in_channels=4,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=8,
                pooled_projection_dim=8,
                axes_dims_rope=(2, 2, 4),
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    words = torch.zeros(1, 2, 8), torch.zeros(1, 8), torch.zeros(2, 3)
    pipe.encode_prompt = lambda *arguments, **settings: words
    pipe.set_progress_bar_config(disable=True)
    return pipe


#: Two classes, as a fine-tuned folder names them; the first of two spellings of one name.
TOKENS = {"A two": "<class_0>", "b_one": "<class_1>"}


def save_learned(folder: Path, model: Path | None = None, **changes: Any) -> Path:
    """Write what fine-tuning a model would, at random; `changes` are of its finetune.json."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    base = model or model_folder("translate")
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        rows = {token: torch.randn(16) for token in TOKENS.values()}
    lora = {f"unet.{name}": weight for name, weight in get_peft_model_state_dict(unet).items()}
    (folder / "adapters").mkdir(parents=True)
    save_file(lora, folder / "adapters" / "pytorch_lora_weights.safetensors")
    save_file(rows, folder / "embeddings.safetensors")
    spec = {"model": str(base), "task": "translate", "revision": None, "size": SIZE, "steps": 2}
    record = {
        **{"format": 1, "finished": True, "base": str(base), "spec": spec},
        "subset": {"shots": 1, "seed": 3, "files": ["A two/0.png", "b_one/1.png"]},
    }
    record["spec"]["revision"] = pin(ModelSpec(str(base))).revision
    (folder / "finetune.json").write_text(json.dumps({**record, **changes}))
    (folder / "classes.json").write_text(json.dumps({"metaclass": "bird", "classes": TOKENS}))
    return folder


def save_clip(folder: Path) -> Path:
    """Write a CLIP model of random weights, 16 px, as transformers saves it."""
    tokenizer = _tokenizer(folder / "vocabulary")
    layer = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    config = CLIPConfig(
        text_config={
            **layer,
            **ids,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**layer, "image_size": 16, "patch_size": 4},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
    torch.nn.init.constant_(model.logit_scale, 1.5)  # so that shares are neither 0 nor 1
    for part in (model, tokenizer, CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)):
        part.save_pretrained(folder / "model")
    return folder / "model"


def save_classes(folder: Path, **count: int) -> Path:
    """Write a folder of PNGs for each class: each of a colour of its class, with some noise."""
    for number, (name, images) in enumerate(count.items()):
        (folder / name).mkdir(parents=True)
        colour = torch.tensor([[[40]], [[200]], [[120]]]).roll(number, 0)
        for n in range(images):
            generator = torch.Generator().manual_seed(100 * number + n)
            noise = torch.randint(-20, 20, (3, 18 + n, 24), generator=generator)
            data = encode_image((colour + noise).to(torch.uint8), "png")
            (folder / name / f"{n}.png").write_bytes(data)
    return folder


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's 256 byte symbols, each also with </w>, and no merges: every prompt can be read."""
    symbols = _symbols()
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>"]
    return CLIPTokenizer.from_pretrained(_write_vocabulary(folder, words), model_max_length=77)


def _symbols() -> list[str]:
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(code) for code in codes] + [chr(256 + n) for n in range(256 - len(codes))]


def _write_vocabulary(folder: Path, words: list[str]) -> Path:
    """Write the files of a tokenizer without merges, and the word that ends a text."""
    folder.mkdir(parents=True)
    numbers = {word: n for n, word in enumerate([*words, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIZE,
    )


def _unet(in_channels: int, **changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
        **{"cross_attention_dim": 16, **changes},
    )
