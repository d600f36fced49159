"""The eight published strategies: which model, which target, from what; and their settings."""

import json
import warnings

import numpy as np
import pytest
import torch
from tiny_pipelines import TOKENS, save_learned, tiny_spec

from diffaug import ClassPairSampler, DiffMix, DiffusersBackend, RecordingBackend
from diffaug.backends import finetuned
from diffaug.transforms.strategies import SETTINGS, STRATEGIES, Strategy, Strengths, find_strategy

NAMES = list(TOKENS)
MIXES = [name for name in STRATEGIES if not name.endswith("-aug")]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return save_learned(tmp_path_factory.mktemp("learned") / "birds")


def parts(mix):
    """Tell which learned parts a transform's model keeps."""
    return [adapter.rpartition("/")[2] for adapter in mix.backend.adapters]


def test_they_are_the_table_of_methods():
    expected = {
        "diff-mix": ("all", "any", "image"),
        "diff-aug": ("all", "own", "image"),
        "diff-gen": ("all", "any", "text"),
        "real-mix": ("none", "any", "image"),
        "real-aug": ("none", "own", "image"),
        "real-gen": ("none", "any", "text"),
        "ti-mix": ("embeddings", "any", "image"),
        "ti-aug": ("embeddings", "own", "image"),
    }
    assert expected == {name: tuple(one) for name, one in STRATEGIES.items()}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("by_name", [True, False])
def test_a_strategy_says_model_prompt_pairs_task_and_strength(tuned, name, by_name):
    mix = DiffMix(NAMES, strategy=name if by_name else STRATEGIES[name], backend=tuned)
    kind, _, rest = name.partition("-")
    lora, rows = "pytorch_lora_weights.safetensors", "embeddings.safetensors"
    assert {"diff": [lora, rows], "ti": [rows], "real": []}[kind] == parts(mix)
    words = "a photo of a A two bird" if kind == "real" else "a photo of a <class_0> bird"
    assert words == mix.prompts[0]
    assert ("same" if rest == "aug" else "uniform") == mix.pairs.strategy
    assert ("generate" if rest == "gen" else "translate") == mix.backend.task
    assert ((1.0,) if rest == "gen" else (0.7,)) == mix.strength.values


@pytest.mark.filterwarnings("ignore:'gamma' is 1")
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_asked_follows_the_strategy(name):
    backend = RecordingBackend(16)
    names = ["ant", "bee", "cat", "dog"]
    from_text = name.endswith("gen")
    strength = None if from_text else 0.4
    mix = DiffMix(names, strategy=name, strength=strength, gamma=1, p=0.5, backend=backend)
    _, labels = mix(torch.rand(80, 3, 8, 8), torch.ones(80, dtype=torch.long))
    assert 20 < len(backend.requests) < 60
    assert {None if from_text else 0.4} == {request.strength for request in backend.requests}
    assert {from_text} == {request.image is None for request in backend.requests}
    targets = {request.prompt.removeprefix("a photo of a ") for request in backend.requests}
    assert (set(names) if name in MIXES else {"bee"}) == targets
    # From text the strength counts as 1: the label is the target's alone.
    shares = {round(value, 4) for value in labels.flatten().tolist()}
    assert ({0, 0.4, 0.6, 1} if name in MIXES and not from_text else {0, 1}) == shares


def test_real_strategies_read_names_as_words_and_the_others_use_tokens(tuned):
    spelt = ["A_two", "B one"]  # as in neither of the files
    assert ("a photo of a <class_0> owl", "a photo of a <class_1> owl") == DiffMix(
        spelt, metaclass=" owl ", backend=tuned
    ).prompts
    assert ("a photo of a A two owl", "a photo of a B one owl") == DiffMix(
        spelt, strategy="real-mix", metaclass="owl", backend=tuned
    ).prompts


@pytest.mark.parametrize("strategy", ["real-mix", "diff-mix"])
def test_without_a_metaclass_a_prompt_has_no_space_too_many(strategy):
    mix = DiffMix(
        [" Black_footed  Albatross ", "wren"], strategy=strategy, backend=RecordingBackend()
    )
    assert ("a photo of a Black footed Albatross", "a photo of a wren") == mix.prompts


def test_the_learned_parts_that_a_strategy_leaves_out_are_no_part_of_the_fingerprint(tuned):
    prints = {
        DiffMix(NAMES, strategy=name, backend=tuned).backend.fingerprint
        for name in ("diff-mix", "ti-mix", "real-mix")
    }
    assert 3 == len(prints)


@pytest.mark.parametrize("strategy", ["diff-mix", "ti-aug", "diff-gen"])
def test_a_model_that_has_learned_nothing_is_warned_of_where_the_caller_stands(strategy):
    with pytest.warns(UserWarning, match="has learned none of the classes; .*'real-mix'") as told:
        DiffMix(["a", "b"], strategy=strategy, backend=tiny_spec("translate"))
    assert [__file__] == [one.filename for one in told]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name.startswith("real")])
def test_a_strategy_for_models_as_they_are_warns_of_nothing(strategy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DiffMix(["a", "b"], strategy=strategy, backend="sd15")


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("tiny", "'backend' must be a model that translates, got the editor .*'sd15' translate"),
        (tiny_spec("edit"), "'backend' must be a model that translates, got the editor"),
        (DiffusersBackend(tiny_spec("edit")), "must be a model that translates, got the editor"),
        (DiffusersBackend(tiny_spec("generate")), "for the strategy's task, .* to generate; give"),
    ],
)
def test_a_model_for_something_else_is_named_when_it_is_given(backend, message):
    with pytest.raises(ValueError, match=message):
        DiffMix(["a", "b"], strategy="real-mix", backend=backend)


def test_a_backend_with_parts_that_the_strategy_leaves_out_is_refused(tuned):
    backend = DiffusersBackend(DiffMix(NAMES, backend=tuned).backend)
    assert backend is DiffMix(NAMES, backend=backend).backend
    with pytest.raises(ValueError, match="learned parts that it uses, .* give its ModelSpec"):
        DiffMix(NAMES, strategy="real-mix", backend=backend)


def test_a_hub_id_is_taken_for_a_model_that_translates():
    mix = DiffMix(["a", "b"], strategy="real-mix", backend="org/model")
    assert ("org/model", "translate") == (mix.backend.model, mix.backend.task)


def test_a_class_that_was_not_learned_is_named_with_what_comes_close(tuned):
    with pytest.raises(ValueError, match="'B_ones' is not among its 2 classes; did .* 'b_one'"):
        DiffMix(["A two", "B_ones"], backend=tuned)
    mix = DiffMix(["A two", "B_ones"], strategy="real-mix", backend=tuned)
    assert "a photo of a B ones bird" == mix.prompts[1]


def test_a_real_model_with_learned_words_alone_makes_another_image(tuned):
    image, made = torch.rand(3, 16, 16), {}
    for strategy in ("ti-aug", "real-aug"):
        mix = DiffMix(NAMES, strategy=strategy, p=0.5, backend=tuned, cache=False)
        [request] = mix.requests(image[None], [{"target": 0, "strength": 1.0, "seed": 1}])
        made[strategy] = mix.live_backend().generate([request])[0].image
    assert not torch.equal(made["ti-aug"], made["real-aug"])


def test_strengths_are_a_number_a_list_a_range_or_the_published_ones():
    assert (0.7,) == Strengths.parse(0.7).values
    assert (0.3, 0.5, 0.7, 0.9) == Strengths.parse("uniform").values
    assert (0.3, 0.5, 0.7, 0.9) == Strengths.parse("Uniform").values
    for several in ([0.25, 1], np.array([0.25, 1.0]), torch.tensor([0.25, 1.0])):
        assert Strengths((0.25, 1.0)) == Strengths.parse(several)
    for one in (np.float64(0.5), np.array(0.5), torch.tensor(0.5), (0.5, 0.5)):
        assert Strengths((0.5,)) == Strengths.parse(one)
    assert Strengths((0.2, 0.8), is_range=True) == Strengths.parse((0.2, 0.8))


def test_strengths_are_drawn_uniformly():
    generator = torch.Generator().manual_seed(0)
    listed = Strengths.parse([0.3, 0.5, 0.9])
    drawn = [listed.draw(generator) for _ in range(3000)]
    for value in listed.values:  # 5 standard deviations
        assert abs(drawn.count(value) - 1000) < 130
    ranged = torch.tensor([Strengths.parse((0.2, 0.6)).draw(generator) for _ in range(2000)])
    assert 0.2 <= ranged.min() < 0.21 and 0.59 < ranged.max() <= 0.6
    assert abs(float(ranged.mean()) - 0.4) < 0.013


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.4, r"'strength' must be in \[0, 1\], got 1.4."),
        (-0.1, r"'strength' must be in \[0, 1\], got -0.1."),
        (float("nan"), r"'strength' must be in \[0, 1\], got nan."),
        ([0.5, 2], r"'strength' must be in \[0, 1\], got 2."),
        ([], "'strength' must hold at least one number, got none."),
        ("strong", r"a list, a range \(low, high\) or 'uniform', got 'strong'."),
        ((0.9, 0.1), r"'strength' must be a number or a range \(low, high\), got \(0.9, 0.1\)."),
        ((0.1, 0.2, 0.3), r"'strength' must be a number or a range"),
        (True, r"'strength' must be a number in \[0, 1\], got True."),
        (["a"], r"'strength' must be a number in \[0, 1\], got 'a'."),
        (None, r"'strength' must be a number in \[0, 1\], got None."),
    ],
)
def test_a_wrong_strength_is_named(value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Strengths.parse(value)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("mixdiff", "'strategy' must be one of diff-mix, .*, ti-aug, got 'mixdiff'."),
        (["diff-mix"], "'strategy' must be one of diff-mix"),
        (None, "'strategy' must be one of diff-mix, .* got None."),
        (Strategy("lora", "any", "image"), "'model' of a Strategy must be one of all, embed.* got"),
        (Strategy("all", "other", "image"), "'target' of a Strategy must be one of any, own, got"),
        (Strategy("all", "any", "noise"), "'start' of a Strategy must be one of image, text, got"),
    ],
)
def test_a_wrong_strategy_is_named(strategy, message):
    with pytest.raises(ValueError, match=message):
        find_strategy(strategy)


def test_settings_are_those_of_methods():
    def setting(name, **changes):
        mix = DiffMix.from_setting(name, ["a", "b"], backend=RecordingBackend(), **changes)
        return mix.strength, mix.gamma, mix.p, mix.pool, mix.copies

    tail = ClassPairSampler(2, strategy="tail", class_counts=[9, 1])
    ranged = Strengths((0.7, 0.9), is_range=True)
    assert (Strengths((0.7,)), 0.8, 0.1, 5, 5) == setting("full-shot")
    assert (Strengths((0.7,)), 0.5, 0.3, 10, 10) == setting("long-tail", pairs=tail)
    for shots, p in {1: 0.5, 2: 0.5, 5: 0.3, 7: 0.3, 10: 0.1, 100: 0.1}.items():
        assert (ranged, 0.5, p, 5, 5) == setting("few-shot", shots=shots)
    assert (ranged, 0.9, 0.2, 5, 5) == setting("few-shot", gamma=0.9, p=0.2)
    assert {"full-shot", "few-shot", "long-tail"} == set(SETTINGS)


@pytest.mark.parametrize(
    ("setting", "changes", "message"),
    [
        ("one-shot", {}, "'setting' must be one of full-shot, few-shot, long-tail, got 'one-shot'"),
        ("few-shot", {"shots": 0}, "'shots' must be at least 1, got 0."),
        ("long-tail", {}, r"'pairs' must be given for the long tail: ClassPairSampler\(.*counts"),
    ],
)
def test_a_wrong_setting_is_named(setting, changes, message):
    with pytest.raises(ValueError, match=message):
        DiffMix.from_setting(setting, ["a", "b"], backend=RecordingBackend(), **changes)


def test_reducing_keeps_adapters_that_were_not_learned_here(tuned):
    spec = DiffMix(NAMES, backend=tuned).backend
    spec = type(spec)(**{**vars(spec), "adapters": ("org/lcm@abc", *spec.adapters)})
    assert ("org/lcm@abc",) == finetuned.reduce(spec, "none").adapters


def test_a_fine_tuned_model_is_asked_by_folder_and_never_warns_of_names(tmp_path):
    tokens = dict(zip(["001.cat", "002.cat"], TOKENS.values(), strict=True))
    tuned = save_learned(tmp_path / "numbers")
    classes = json.dumps({"metaclass": "bird", "classes": tokens})
    (tuned / "classes.json").write_text(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mix = DiffMix(tokens, backend=tuned)
        listed = DiffMix(list(tokens), backend=tuned)
    assert [f"a photo of a {token} bird" for token in tokens.values()] == list(mix.prompts)
    assert mix.prompts == listed.prompts


@pytest.mark.parametrize("spelt", ["TI_Mix", "ti mix", " ti-mix ", "TI__MIX", "timix"])
def test_dashes_underscores_and_case_make_no_other_name(spelt):
    assert STRATEGIES["ti-mix"] == find_strategy(spelt)
    mix = DiffMix.from_setting("Few_Shot", ["a", "b"], pairs="OTHER", backend=RecordingBackend())
    assert (0.3, "other") == (mix.p, mix.pairs.strategy)


@pytest.mark.parametrize("name", ["diff-gen", "real_gen"])
def test_a_strength_is_refused_where_images_are_made_from_text(name):
    with pytest.raises(
        ValueError, match="'strength' must not be given with strategy .*-gen, .*0.4"
    ):
        DiffMix(["a", "b"], strategy=name, strength=0.4, backend=RecordingBackend())
    for strength in (None, 1, 1.0, [1.0]):
        mix = DiffMix(["a", "b"], strategy=name, strength=strength, backend=RecordingBackend())
        assert (1.0,) == mix.strength.values
    mix = DiffMix.from_setting("few-shot", ["a", "b"], strategy=name, backend=RecordingBackend())
    assert (1.0,) == mix.strength.values
