"""Systems by the rule of the paper, pictures worth blending in, and a bank that keeps them."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug import FractalBank, fractals
from diffaug.fractals import render, sample_systems


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 2**32))
def test_singular_values_satisfy_the_paper_s_rule(seed):
    maps, probabilities = sample_systems(3, generator(seed))
    for system, shares in zip(maps, probabilities, strict=True):
        k = int((shares > 0).sum())
        values = np.linalg.svd(system[:k, :, :2].double().numpy(), compute_uv=False)
        total = (values[:, 0] + 2 * values[:, 1]).sum()
        assert 2 <= k <= 8
        assert (5 + k) / 2 - 1e-4 <= total <= (6 + k) / 2 + 1e-4
        assert values.max() <= 1 + 1e-5  # no map expands
        assert system[:k, :, 2].abs().max() <= 1
        assert torch.count_nonzero(system[k:]) == 0


@given(st.integers(0, 2**32))
def test_probabilities_follow_the_areas(seed):
    maps, probabilities = sample_systems(2, generator(seed))
    torch.testing.assert_close(torch.ones(2), probabilities.sum(1))
    areas = torch.linalg.det(maps[..., :2].double()).abs()
    for area, shares in zip(areas, probabilities, strict=True):
        order = area[shares > 0].argsort()
        assert (shares[shares > 0][order].diff() >= -1e-6).all()


@pytest.fixture
def drawn(monkeypatch):
    """Return a function that renders and gives the system in pixels, the marks, the summed hues."""
    walk, shade, seen = fractals._walk, fractals._shade, {}

    def spy_on_walk(system, *rest):
        seen["system"] = system
        return walk(system, *rest)

    def spy_on_shade(layers, generator):
        seen["marks"], seen["hues"] = layers.clone()
        return shade(layers, generator)

    monkeypatch.setattr(fractals, "_walk", spy_on_walk)
    monkeypatch.setattr(fractals, "_shade", spy_on_shade)

    def draw(maps, shares, **options):
        render(maps, shares, **{"seeds": [0], **options})
        return seen["system"], seen["marks"], seen["hues"]

    return draw


@pytest.fixture
def triangle():
    """Return Sierpinski's triangle, its corners at (0, 0), (1, 0) and (0, 1)."""
    maps = torch.zeros(1, 8, 2, 3)
    for i, (x, y) in enumerate([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]):
        maps[0, i] = torch.tensor([[0.5, 0, x / 2], [0, 0.5, y / 2]])
    return maps, torch.tensor([[1 / 3] * 3 + [0.0] * 5])


def test_the_chaos_game_draws_the_attractor(drawn, triangle):
    """The triangle has no mark in its central hole, nor beyond its longest side."""
    _, marks, _ = drawn(*triangle, size=128)
    assert 0 == marks[44:54, 44:54].sum()
    assert 0 == marks[80:, 80:].sum()
    assert marks[4:40, 4:40].sum() > 12_000


@pytest.mark.parametrize("seed", range(6))
def test_marks_lie_as_a_plain_chaos_game_leaves_them(drawn, seed):
    maps, shares = sample_systems(1, generator(seed))
    system, marks, _ = drawn(maps, shares, seeds=[seed], size=256)
    rng = np.random.default_rng(seed)
    probabilities = shares[0].double().numpy()
    chosen = rng.choice(8, (160, 2000), p=probabilities / probabilities.sum())
    points, expected = np.zeros((2000, 2)), np.zeros((16, 16))
    for step, taken in enumerate(system.double().numpy()[chosen]):
        points = (taken[:, :, :2] @ points[:, :, None])[:, :, 0] + taken[:, :, 2]
        if step >= 60:
            edges = np.linspace(1, 257, 17)
            expected += np.histogram2d(points[:, 1], points[:, 0], (edges, edges))[0]
    actual = marks.view(16, 16, 16, 16).sum((1, 3)).double().numpy()
    assert actual.sum() > 0.93 * 100_000
    assert 0.05 > np.abs(expected / 200_000 - actual / 100_000).sum() / 2


@pytest.mark.parametrize("points", [1, 8192, 8193, 100_000])
def test_as_many_marks_are_left_as_points_or_hardly_more(drawn, triangle, points):
    _, marks, _ = drawn(*triangle, size=64, points=points)
    assert points / 2 - 1 < marks.sum() < points + points / 8192 + 1
    assert torch.equal(marks, marks.round())


def test_a_mark_is_coloured_by_the_last_three_maps(drawn, triangle):
    system, marks, hues = drawn(*triangle, size=256, points=400_000)
    maps = system.double().numpy()

    def hue(*address):
        point = maps[0, :, 2]
        inside = [0, 1, 2] * 3  # away from where triangles touch
        for i in reversed([*address, *inside]):
            point = maps[i, :, :2] @ point + maps[i, :, 2]
        column, row = (point - 1).astype(int)
        assert marks[row, column] > 0
        return float(hues[row, column] / marks[row, column])

    tints = [hue(i, i, i) / 7 for i in range(3)]
    assert len(set(tints)) == 3
    for i, j, k in np.ndindex(3, 3, 3):
        assert 4 * tints[i] + 2 * tints[j] + tints[k] == hue(i, j, k)


def test_walkers_who_set_out_together_part(drawn):
    """100,000 marks on a square without holes leave hardly more of it bare than chance does."""
    maps = torch.zeros(1, 8, 2, 3)
    for i, (x, y) in enumerate([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]):
        maps[0, i] = torch.tensor([[0.5, 0, x / 2], [0, 0.5, y / 2]])
    _, marks, _ = drawn(maps, torch.tensor([[0.25] * 4 + [0.0] * 4]), size=256)
    inner = marks[20:-20, 20:-20]
    assert (inner == 0).double().mean() < 1.1 * float(torch.exp(-inner.mean()))


def test_draws_are_as_frequent_as_their_probabilities():
    shares = torch.tensor([0.6, 0.3, 0.1, 0, 0, 0, 0, 0])
    row = fractals._draw_maps(shares, 400_001, generator())
    actual = torch.from_numpy(np.bincount(row, minlength=8) / 400_001).float()
    torch.testing.assert_close(shares, actual, atol=0.005, rtol=0)


def test_a_picture_does_not_depend_on_its_company():
    systems = sample_systems(3, generator())
    together = render(*systems, seeds=[5, 6, 7], size=64)
    alone = render(systems[0][1:2], systems[1][1:2], seeds=[6], size=64)
    assert torch.equal(alone[0], together[1])
    assert (together.shape, together.dtype) == ((3, 3, 64, 64), torch.uint8)


@pytest.mark.parametrize("size", [66, 257, 1000])
def test_a_picture_does_not_depend_on_the_number_of_threads(size):
    systems = sample_systems(3, generator(2))
    expected = render(*systems, seeds=[5, 6, 7], size=size)
    before = torch.get_num_threads()
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(expected, render(*systems, seeds=[5, 6, 7], size=size))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_picture_does_not_depend_on_the_default_dtype(dtype):
    expected = render(*sample_systems(2, generator(2)), seeds=[5, 6], size=64)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        assert torch.equal(
            expected, render(*sample_systems(2, generator(2)), seeds=[5, 6], size=64)
        )
    finally:
        torch.set_default_dtype(before)


@given(st.integers(1, 70), st.integers(1, 20_000), st.integers(0, 99))
def test_any_size_and_any_number_of_points_can_be_rendered(size, points, seed):
    system = sample_systems(1, generator(seed))
    [picture] = render(*system, seeds=[seed], size=size, points=points)
    assert picture.shape == (3, size, size)


@pytest.mark.parametrize("size", [16, 63, 231, 1000, 1024])
def test_pictures_are_lit_alike_in_every_size(size):
    pictures = render(*sample_systems(4, generator(4)), seeds=range(4), size=size)
    assert pictures.shape == (4, 3, size, size)
    assert (pictures.float().flatten(1).std(1) > 15).all()
    assert (pictures.amax((1, 2, 3)) > 180).all()


@pytest.mark.parametrize("point", [0.0, 0.7])
def test_a_system_that_is_one_point_can_be_rendered(point):
    maps = torch.zeros(1, 8, 2, 3)
    maps[0, :2, :, 2] = point
    shares = torch.tensor([[0.5, 0.5] + [0.0] * 6])
    assert render(maps, shares, seeds=[0], size=32).shape == (1, 3, 32, 32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_renders_what_the_cpu_does():
    maps, shares = sample_systems(4, generator())
    expected = render(maps, shares, seeds=range(4), size=64)
    actual = render(maps.cuda(), shares.cuda(), seeds=range(4), size=64)
    assert "cuda" == actual.device.type
    assert (
        expected.float() - actual.cpu().float()
    ).abs().mean() < 2  # marks on the edge of a pixel move


def test_neither_drawing_nor_rendering_touches_the_global_generator():
    before = torch.get_rng_state()
    render(*sample_systems(1, generator()), seeds=[0], size=32)
    FractalBank(1, 16, seed=77)[0]
    assert torch.equal(before, torch.get_rng_state())


def test_no_degenerate_picture_gets_into_a_bank():
    for picture in FractalBank(40, 64).batch(range(40)):
        assert not fractals._is_degenerate(picture)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_empty_and_solid_pictures_are_degenerate(level):
    picture = torch.full((3, 64, 64), level, dtype=torch.uint8)
    assert fractals._is_degenerate(picture)
    picture[:, 30:32, 30:32] = 255 - level
    assert fractals._is_degenerate(picture)


def test_pictures_differ_and_depend_on_seed_size_and_index_alone():
    large, small = FractalBank(9, 32, seed=1), FractalBank(5, 32, seed=1)
    assert torch.equal(large[4], small[4])
    assert not torch.equal(large[4], large[5])
    assert not torch.equal(large[4], FractalBank(9, 32, seed=2)[4])
    assert "fractal-1-4" == large.name(4)


def test_another_process_finds_what_this_one_rendered(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path))
    expected = FractalBank(3, 32, seed=3)[2].sum().item()
    code = (
        "import diffaug.fractals as f; f.render = None;"
        "print(f.FractalBank(3, 32, seed=3)[2].sum().item())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=120
    )
    assert str(expected) == run.stdout.strip(), run.stderr


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_record_is_rendered_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path))
    expected = FractalBank(2, 32)[1]
    [file] = tmp_path.rglob("*.bin")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes({"flipped": data, "cut": data[:-9], "emptied": b""}[damage])
    assert torch.equal(expected, FractalBank(2, 32)[1])
    assert torch.equal(expected, FractalBank(2, 32)[1])


def test_a_larger_bank_extends_the_file_of_a_smaller_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path))
    small, large = FractalBank(2, 16), FractalBank(20, 16)
    first = small[1].clone()
    large[19]
    assert torch.equal(first, small[1]) and torch.equal(first, large[1])


def test_without_a_writable_cache_it_warns_once_and_goes_on(tmp_path, monkeypatch):
    expected = FractalBank(1, 16)[0]
    (tmp_path / "file").touch()
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path / "file"))
    bank = FractalBank(1, 16)
    with pytest.warns(RuntimeWarning, match="cannot write") as caught:
        assert torch.equal(expected, bank[0]) and torch.equal(expected, bank[0])
    assert 1 == len(caught)


def test_a_bank_pickles_as_its_settings():
    bank = FractalBank(7, 32, seed=5)
    fresh = pickle.dumps(bank)
    bank[0]
    assert pickle.dumps(bank) == fresh and len(fresh) < 200
    assert bank == pickle.loads(fresh) and hash(bank) == hash(pickle.loads(fresh))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FractalBank(0), ValueError, "'count' must be at least 1, got 0"),
        (lambda: FractalBank(size=8), ValueError, "'size' must be at least 16, got 8"),
        (lambda: FractalBank(2, 16)[2], IndexError, r"'index' must be in \[0, 2\), got 2"),
        (
            lambda: render(*sample_systems(2, generator()), seeds=[1]),
            ValueError,
            "one seed for each of the 2 systems, got 1",
        ),
        (
            lambda: render(*sample_systems(1, generator()), seeds=[1], size=0),
            ValueError,
            "'size' must be at least 1, got 0",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_full_disk_and_a_file_cut_by_another_process_crash_nothing(tmp_path, monkeypatch):
    expected = FractalBank(3, 16).batch([0, 1, 2])
    monkeypatch.setenv("DIFFAUG_CACHE", str(tmp_path))
    bank = FractalBank(3, 16)
    assert torch.equal(expected, bank.batch([0, 1, 2]))
    [file] = tmp_path.rglob("*.bin")
    with file.open("r+b") as opened:
        opened.truncate(900)
    assert torch.equal(expected, bank.batch([0, 1, 2]))
    file.unlink()
    file.symlink_to("/dev/full")  # a disk without room for another byte
    bank = FractalBank(3, 16)
    with pytest.warns(RuntimeWarning, match="cannot write .*No space left on device") as caught:
        for _ in range(2):
            assert torch.equal(expected, bank.batch([0, 1, 2]))
    assert 1 == len(caught)


def test_a_user_without_a_home_has_a_bank_and_a_warning(monkeypatch):
    expected = FractalBank(1, 16)[0]
    monkeypatch.setenv("DIFFAUG_CACHE", "~nobody-of-this-name/cache")
    with pytest.warns(RuntimeWarning, match="set DIFFAUG_CACHE to a folder"):
        assert torch.equal(expected, FractalBank(1, 16)[0])
