"""How well a model predicts the noise that was added to an image: what fine-tuning lowers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from diffaug.errors import ModelError
from diffaug.training_graphs import Recorded


class NoisedImage(NamedTuple):
    """One image of one step, with the noise that is added to it."""

    pixels: torch.Tensor  # (3, S, S), uint8
    label: int
    encoding: torch.Tensor  # (4, s, s), where in the VAE's distribution of latents
    timestep: torch.Tensor  # ()
    noise: torch.Tensor  # (4, s, s)


def min_snr_weights(
    alphas_cumprod: torch.Tensor, gamma: float, prediction_type: str
) -> torch.Tensor:
    """Weigh the loss at each timestep so that easy, nearly clean images do not dominate it.

    Args:
        alphas_cumprod: the signal's share of the variance, any shape.
        gamma: signal-to-noise ratio above which a timestep weighs less; 5 in the paper.
        prediction_type: ``"epsilon"`` (min(SNR, gamma) / SNR) or ``"v_prediction"``
            (min(SNR, gamma) / (SNR + 1)).

    Example:
        >>> min_snr_weights(torch.tensor([0.5, 0.9]), 5.0, "epsilon")  # SNR 1 and 9
        tensor([1.0000, 0.5556])

    Reference:
        Hang et al. (2023), arXiv 2303.09556, section 3.4.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1)  # also where there is no signal at all


class _Prediction(nn.Module):
    """A U-Net that takes and returns tensors alone."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        predicted: torch.Tensor = self.unet(*inputs, return_dict=False)[0]
        return predicted


class Denoiser:
    """Measure how far a pipeline's prediction is from the noise that was added.

    Raises:
        ModelError: the model predicts neither noise nor velocity.
    """

    def __init__(self, pipe: Any) -> None:
        from diffusers import DDPMScheduler

        self.pipe = pipe
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self.predict: Callable[..., torch.Tensor] = _Prediction(pipe.unet)
        self.prediction_type: str = self.scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ModelError(
                "a model to fine-tune must predict epsilon or v_prediction, "
                f"got {self.prediction_type!r}; choose another."
            )

    def with_noise(
        self, pixels: torch.Tensor, label: int, generator: torch.Generator
    ) -> NoisedImage:
        """Draw the encoding, the timestep and the noise of one square image."""
        side = pixels.shape[-1] // self.pipe.vae_scale_factor
        shape = (self.pipe.vae.config.latent_channels, side, side)
        encoding = torch.randn(shape, generator=generator)
        timestep = torch.randint(len(self.scheduler.betas), (), generator=generator)
        noise = torch.randn(shape, generator=generator)
        return NoisedImage(pixels, label, encoding, timestep, noise)

    def record(self) -> None:
        """Let a GPU repeat the U-Net's passes; each step must have one backward pass."""
        self.predict = Recorded(_Prediction(self.pipe.unet).eval())

    def words(self, prompts: Sequence[str]) -> torch.Tensor:
        """Turn prompts into the numbers of their tokens, (B, length)."""
        encoded = self.pipe.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.pipe.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return torch.as_tensor(encoded.input_ids)

    def errors(self, items: Sequence[NoisedImage], words: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of each item's prediction, (B,)."""
        vae, unet = self.pipe.vae, self.pipe.unet
        pixels, encoding, timesteps, noise = (
            torch.stack([getattr(item, name) for item in items]).to(unet.device)
            for name in ("pixels", "encoding", "timestep", "noise")
        )
        with torch.no_grad():
            encoded = vae.encode(pixels.to(vae.dtype) / 127.5 - 1).latent_dist
            latents = (encoded.mean + encoded.std * encoding).float() * vae.config.scaling_factor
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target: torch.Tensor = noise
        if self.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timesteps)
        meaning = self.pipe.text_encoder(words.to(unet.device))[0]
        predicted = self.predict(noisy.to(unet.dtype), timesteps, meaning.to(unet.dtype))
        return functional.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3))
