"""Half precision rounds an image; it does not make another one."""

import pytest
import torch
from tiny_pipelines import make_requests, tiny_spec

from diffaug import DiffusersBackend
from diffaug.backends import noise
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


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 4, 2, 2), (2, 3, 3, 3), (2, 4, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_noise_drawn_ahead_is_that_drawn_one_by_one(shape, dtype):
    """Also where something else is drawn in between, for one image or another shape."""
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as module

    class Pipe:
        scheduler = module.EulerAncestralDiscreteScheduler()

    round_noise(Pipe())
    plain = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    ours = [Generator.seeded(seed, ahead=5) for seed in (3, 4)]

    def expected(generator, other=shape):
        return torch.randn(other[1:], generator=generator).to(dtype)

    def drawn(generators, other=shape):
        return module.randn_tensor(other, generator=generators, dtype=dtype)

    def check_batches(count):
        for _ in range(count):
            assert torch.equal(torch.stack(list(map(expected, plain))), drawn(ours))

    check_batches(12)
    other = (2, 4, 4, 4)
    assert torch.equal(torch.stack([expected(one, other) for one in plain]), drawn(ours, other))
    check_batches(4)
    single = (1, *shape[1:])
    for generator, one in zip(plain, ours, strict=True):
        for _ in range(3):
            assert torch.equal(expected(generator), drawn(one, single)[0])
    check_batches(9)


def test_a_model_draws_the_noise_of_all_steps_at_once(monkeypatch):
    spec = tiny_spec("edit", steps=8, scheduler="EulerAncestralDiscreteScheduler")
    backend, draw, counts = DiffusersBackend(spec), noise._draw, []
    monkeypatch.setattr(
        noise, "_draw", lambda ours, kind, count: counts.append(count) or draw(ours, kind, count)
    )
    backend.generate(make_requests(count=3))
    assert [1, 8] == counts  # the noise to begin with, and then that of each step


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
