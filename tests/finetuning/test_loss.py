"""The loss that is trained with: the paper's targets and weights, and images drawn by one seed."""

from collections import Counter

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_pipelines import SIZE, save_classes, tiny_spec

from diffaug.backends.loading import load_pipeline
from diffaug.errors import ModelError
from diffaug.finetuning.data import ImageSampler, square
from diffaug.finetuning.loss import Denoiser, min_snr_weights
from diffaug.images import read_image


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline(tiny_spec("translate"))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_the_paper_s(gamma):
    shares = [0.01, 0.3, 0.5, 0.9, 0.999]
    snr = [share / (1 - share) for share in shares]
    epsilon = torch.tensor([min(ratio, gamma) / ratio for ratio in snr])
    velocity = torch.tensor([min(ratio, gamma) / (ratio + 1) for ratio in snr])
    alphas = torch.tensor(shares)
    torch.testing.assert_close(epsilon, min_snr_weights(alphas, gamma, "epsilon"))
    torch.testing.assert_close(velocity, min_snr_weights(alphas, gamma, "v_prediction"))


def test_min_snr_weights_are_finite_where_no_signal_is_left():
    nothing = torch.zeros(1)
    assert [1.0] == min_snr_weights(nothing, 5.0, "epsilon").tolist()
    assert [0.0] == min_snr_weights(nothing, 5.0, "v_prediction").tolist()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_the_error_is_that_of_the_prediction_against_noise_or_velocity(pipe, prediction):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=prediction)
    denoiser = Denoiser(pipe)
    pixels = torch.randint(0, 256, (3, SIZE, SIZE), generator=seeded(), dtype=torch.uint8)
    items = [denoiser.with_noise(pixels, 0, seeded(n)) for n in range(2)]
    words = denoiser.words(["a cat", "a dog"])
    expected = []
    for item, prompt in zip(items, ["a cat", "a dog"], strict=True):
        encoded = pipe.vae.encode(pixels[None] / 255 * 2 - 1).latent_dist
        latents = (encoded.mean + encoded.std * item.encoding) * pipe.vae.config.scaling_factor
        share = pipe.scheduler.alphas_cumprod[item.timestep]
        noisy = share.sqrt() * latents + (1 - share).sqrt() * item.noise
        velocity = share.sqrt() * item.noise - (1 - share).sqrt() * latents
        target = item.noise[None] if prediction == "epsilon" else velocity
        meaning, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
        predicted = pipe.unet(noisy, item.timestep, meaning).sample
        expected.append((predicted - target).square().mean())
    torch.testing.assert_close(torch.stack(expected), denoiser.errors(items, words))


def test_a_model_that_predicts_the_image_itself_is_refused(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="sample")
    with pytest.raises(ModelError, match="must predict epsilon or v_prediction, got 'sample'"):
        Denoiser(pipe)


def test_every_timestep_may_be_drawn(pipe):
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, prediction_type="epsilon", num_train_timesteps=3
    )
    denoiser = Denoiser(pipe)
    pixels = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    items = [denoiser.with_noise(pixels, 0, seeded(n)) for n in range(30)]
    assert {0, 1, 2} == {int(item.timestep) for item in items}


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 41), (33, 16), (7, 5), (1, 9)])
def test_a_square_has_its_size_wherever_it_is_cut(height, width):
    pixels = torch.randint(0, 256, (3, height, width), generator=seeded(), dtype=torch.uint8)
    for share in (0.0, 0.5, 1.0):
        assert (3, 16, 16) == square(pixels, 16, share, share).shape


def test_a_square_is_cut_from_the_middle_or_from_where_it_is_asked():
    pixels = torch.arange(20, dtype=torch.uint8).expand(3, 16, 20)
    starts = [int(square(pixels, 16, share)[0, 0, 0]) for share in (0.0, 0.5, 1.0)]
    assert [0, 2, 4] == starts
    assert torch.equal(square(pixels, 16), square(pixels, 16, 0.5))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return save_classes(tmp_path_factory.mktemp("photos"), many=4, one=1)


def sampler(tree, balanced):
    files = sorted(tree.glob("*/*.png"))
    return ImageSampler(files, [file.parent.name == "one" for file in files], 16, balanced)


@pytest.mark.parametrize(("balanced", "share"), [(False, 0.2), (True, 0.5)])
def test_images_are_drawn_uniformly_or_each_class_as_often(tree, balanced, share):
    images = sampler(tree, balanced)
    count = Counter(images.draw(seeded(n))[1] for n in range(400))
    assert share == pytest.approx(count[1] / 400, abs=0.08)


def test_half_of_the_images_are_flipped_and_one_seed_says_which(tree):
    files = [tree / "many" / "0.png"]  # 18 by 24: at 18 px only the columns are cut
    flips = 0
    for n in range(100):
        drawn, label = ImageSampler(files, [0], 18, False).draw(seeded(n))
        again, _ = ImageSampler(files, [0], 18, False).draw(seeded(n))
        assert torch.equal(drawn, again) and 0 == label
        cuts = [read_image(files[0])[:, :, start : start + 18] for start in range(7)]
        straight = any(torch.equal(drawn, cut) for cut in cuts)
        flipped = any(torch.equal(drawn, cut.flip(-1)) for cut in cuts)
        assert straight != flipped
        flips += flipped
    assert 30 < flips < 70
