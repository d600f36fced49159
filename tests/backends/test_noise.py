"""Half precision rounds an image; it does not make another one."""

import pytest
import torch
from tiny_pipelines import make_requests, tiny_spec

from diffaug import DiffusersBackend
from diffaug.backends.noise import Generator, round_noise


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_noise_is_that_of_float32_rounded_and_of_torch_s_generator(dtype):
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as module

    class Pipe:
        scheduler = module.EulerAncestralDiscreteScheduler()

    round_noise(Pipe())
    shape = (2, 4, 8, 8)
    drawn = module.randn_tensor(
        shape, generator=[Generator.seeded(seed) for seed in (3, 4)], dtype=dtype
    )
    for image, seed in zip(drawn, (3, 4), strict=True):
        expected = torch.randn(shape[1:], generator=torch.Generator().manual_seed(seed))
        assert torch.equal(expected.to(dtype), image)


def test_other_users_of_diffusers_get_their_own_noise():
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as module

    class Pipe:
        scheduler = module.EulerAncestralDiscreteScheduler()

    round_noise(Pipe())
    drawing = module.randn_tensor
    round_noise(Pipe())  # once is enough
    assert drawing is module.randn_tensor
    shape, dtype = (1, 4, 8, 8), torch.float16
    drawn = drawing(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    assert torch.equal(expected, drawn)


@pytest.mark.parametrize(
    ("task", "scheduler"),
    [
        ("edit", "EulerAncestralDiscreteScheduler"),
        ("translate", "DPMSolverMultistepScheduler"),
        ("translate", "LCMScheduler"),
        ("generate", None),
    ],
)
def test_an_image_in_half_precision_is_nearly_that_in_float32(task, scheduler):
    images = []
    for dtype in ("float32", "bfloat16"):
        backend = DiffusersBackend(tiny_spec(task, scheduler=scheduler, dtype=dtype))
        made = backend.generate(make_requests(task))
        images.append(torch.stack([one.image for one in made]).float())
    apart = (images[0] - images[1]).abs()
    assert apart.mean() < 2 and apart.max() <= 30
