"""What each scorer thinks of an image, against formulas written out here, and what it refuses."""

import errno
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from ambient import AMBIENT, settings
from elsewhere import OnMps
from image_folders import picture
from PIL import Image
from tiny_pipelines import save_clip
from torch import nn
from torchvision.transforms import v2
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from diffaug.backends import devices, loading
from diffaug.errors import GenerationError, ModelError, ModelUnavailableError
from diffaug.filtering.classifier import ClassifierFilter
from diffaug.filtering.clip import CLIP, ClipFilter, caption_scores
from diffaug.filtering.similarity import SimilarityFilter
from diffaug.functional import resize
from diffaug.images import encode_image, read_image
from diffaug.offline.manifest import write_run


def rows(*labels):
    return [{"file_name": f"{label}/{n}.png", "label": label} for n, label in enumerate(labels)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def clip_shares(folder, image, captions):
    """Return each caption's share of an image, asking the model straight."""
    tokens = CLIPTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.no_grad():
        logits = CLIPModel.from_pretrained(folder)(**tokens, **pixels).logits_per_image[0]
    return logits.exp() / logits.exp().sum()


def test_scores_of_captions_are_logarithms_of_their_shares(clip):
    pictures = [picture(1), picture(2, 16, 50), picture(3, 100, 30)]
    captions = ["a photo of a robin", "a photo of a frog", "a photo of an eft"]
    scores = caption_scores(clip, pictures, captions, device="cpu", batch_size=2)
    expected = torch.stack([clip_shares(clip, image, captions) for image in pictures])
    torch.testing.assert_close(scores.exp(), expected)


def test_clip_is_asked_the_papers_question():
    captions = ("a photo with a bird on it", "a photo without a bird on it")
    assert captions == ClipFilter("bird").captions


def test_a_clip_score_is_the_share_of_the_caption_with_the_thing(clip):
    pictures = [picture(1), picture(2, 16, 50), picture(3, 100, 30)]
    scores = ClipFilter("bird", model=clip).score(pictures, rows("a", "b", "a"))
    captions = ["a photo with a bird on it", "a photo without a bird on it"]
    expected = torch.stack([clip_shares(clip, image, captions)[0] for image in pictures])
    assert (3,) == tuple(scores.shape)
    assert expected.std() > 1e-3
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("state", ["autocast", "float64", "another device", "inference mode"])
def test_scores_do_not_depend_on_what_a_script_has_set(clip, source, state):
    pictures = [picture(1), picture(2, 16, 50)]
    expected = ClipFilter("bird", model=clip).score(pictures, rows("a", "b"))
    similar = SimilarityFilter(source).score(pictures, of("a", "b"))
    with AMBIENT[state]():
        before = settings()
        scores = ClipFilter("bird", model=clip).score(pictures, rows("a", "b"))
        assert expected.tolist() == scores.tolist()
        assert similar.tolist() == SimilarityFilter(source).score(pictures, of("a", "b")).tolist()
        assert before == settings()


def test_the_target_class_multiplies_its_share_among_the_classes_of_the_set(clip, tmp_path):
    judge = ClipFilter("bird", model=clip, target_class=True)
    judge.prepare(tmp_path, rows("wren", "robin", "owl", "wren"))
    names = ["owl", "robin", "wren"]
    classes = [f"a photo of a {name} bird" for name in names]
    presence = ["a photo with a bird on it", "a photo without a bird on it"]
    assert (*presence, *classes) == judge.captions
    labels, pictures = ("robin", "wren"), [picture(1), picture(2)]
    expected = [
        clip_shares(clip, image, presence)[0]
        * clip_shares(clip, image, classes)[names.index(label)]
        for label, image in zip(labels, pictures, strict=True)
    ]
    assert min(expected) > 0.05 and abs(expected[0] - expected[1]) > 1e-3
    for _ in range(2):  # the captions' embeddings are computed the first time only
        scores = judge.score(pictures, rows(*labels))
        torch.testing.assert_close(scores, torch.stack(expected), atol=1e-5, rtol=0)


def test_the_caption_of_a_class_has_its_words(clip, tmp_path):
    judge = ClipFilter("bird", model=clip, target_class=True)
    judge.prepare(tmp_path, rows("002.owl", "001.Black_auk"))
    assert ("a photo of a Black auk bird", "a photo of a owl bird") == judge.captions[2:]

    with pytest.warns(UserWarning, match="no words for 1 of 2 classes, such as 'n01443537', and"):
        judge.prepare(tmp_path, rows("owl", "n01443537"))
    judge = ClipFilter(
        "bird", model=clip, target_class=True, class_names={"N01443537": "wren", "x": "y"}
    )
    judge.prepare(tmp_path, rows("n01443537"))
    assert ("a photo of a wren bird",) == judge.captions[2:]
    with pytest.raises(ValueError, match="must give words for every class, and has none for 'owl'"):
        judge.prepare(tmp_path, rows("n01443537", "owl"))


def test_words_that_nothing_uses_are_refused(clip):
    with pytest.raises(ValueError, match="'class_names' must not be given without target_class"):
        ClipFilter("bird", model=clip, class_names={"owl": "owl"})


def test_another_set_has_other_classes(clip, tmp_path):
    judge = ClipFilter("bird", model=clip, target_class=True)
    both = []
    for others in (("owl",), ("owl", "robin", "lark")):
        judge.prepare(tmp_path, rows("wren", *others))
        both.append(float(judge.score([picture(1)], rows("wren"))))
    assert both[0] != pytest.approx(both[1], abs=1e-3)


def test_clip_loads_once_and_leaves_the_global_random_state_alone(clip, tmp_path):
    shutil.copytree(clip, tmp_path / "clip")
    judge = ClipFilter("bird", model=tmp_path / "clip")
    before = torch.get_rng_state()
    first = judge.score([picture(1)], rows("a"))
    shutil.rmtree(tmp_path / "clip")
    assert torch.equal(first, judge.score([picture(1)], rows("a")))
    assert torch.equal(before, torch.get_rng_state())


def test_clip_takes_the_cpu_aloud_where_there_is_a_gpu(clip, monkeypatch):
    monkeypatch.setattr(devices, "why_no_gpu", lambda: "its driver is too old")
    judge = ClipFilter("bird", model=clip)
    with pytest.warns(UserWarning, match=r"on the CPU: .* \(its driver is too old\)") as caught:
        judge.score([picture(1)], rows("a"))
        judge.score([picture(1)], rows("a"))
    assert 1 == len(caught)
    with pytest.warns(UserWarning, match=r"on the CPU: .* \(its driver is too old\)") as caught:
        caption_scores(clip, [picture(1)], ["a", "b"])
    assert 1 == len(caught)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_clip_that_is_read_without_the_memory_for_it_is_neither_damaged_nor_fetched(
    clip, own_hub, tmp_path, monkeypatch, error
):
    def fail(*_, **__):
        raise error

    shutil.copytree(clip, in_cache(tmp_path / "cache"))
    monkeypatch.setattr(loading, "read_module", fail)
    for model in (clip, CLIP):
        message = f"'{model}' does not fit into the memory of this machine; end other programs, or"
        with pytest.raises(GenerationError, match=f"^{message} choose a smaller model.$"):
            ClipFilter("bird", model=model).score([picture(1)], rows("a"))
    assert [] == own_hub


def test_a_clip_that_does_not_fit_onto_its_device_is_one_line(clip, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(devices, "choose_device", lambda _: torch.device("mps"))
    monkeypatch.setattr(torch.nn.Module, "to", fail)
    message = "clip.*' does not fit on mps; set device='cpu', or free the device.$"
    with pytest.raises(GenerationError, match=message):
        ClipFilter("bird", model=clip).score([picture(1)], rows("a"))


@pytest.mark.parametrize("most", [1, 2])
def test_a_batch_that_clip_has_no_memory_for_is_divided(clip, monkeypatch, most):
    """So are the captions of many classes."""
    from transformers import CLIPModel

    pictures, labels = [picture(n) for n in range(5)], ["wren", "owl", "robin", "wren", "owl"]
    expected = ClipFilter("bird", model=clip, target_class=True).score(pictures, rows(*labels))
    forward, sizes = CLIPModel.forward, []

    def full(self, input_ids, pixel_values, **settings):
        sizes.append((len(pixel_values), len(input_ids)))
        if max(sizes[-1]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids, pixel_values, **settings)

    monkeypatch.setattr(CLIPModel, "forward", full)
    judge = ClipFilter("bird", model=clip, target_class=True)
    with pytest.warns(UserWarning, match="a batch of 5 does not fit into memory") as caught:
        scores = judge.score(pictures, rows(*labels))
        sizes.clear()
        assert torch.equal(scores, judge.score(pictures, rows(*labels)))
    assert 1 == len(caught)
    torch.testing.assert_close(expected, scores, atol=1e-5, rtol=0)
    assert most == max(images for images, _ in sizes)
    most = 0
    with pytest.raises(GenerationError, match="one image for CLIP does not fit into the memory of"):
        judge.score(pictures, rows(*labels))


def test_long_captions_are_cut_to_what_clip_reads(clip):
    judge = ClipFilter("b" * 500, model=clip)
    assert 0 <= float(judge.score([picture(1)], rows("a"))) <= 1


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (CLIP, "is not on this machine and could not be fetched"),
        ("nobody/nothing", "is not on this machine and could not be fetched"),
        ("./no/such/folder", "could not be fetched .there is no such folder.; give ClipFilter"),
    ],
)
def test_a_clip_model_that_is_not_here_is_one_line_with_a_way_out(model, reason):
    with pytest.raises(ModelUnavailableError, match=reason) as caught:
        ClipFilter("bird", model=model).score([picture(1)], rows("a"))
    assert "\n" not in str(caught.value)
    assert f"'{model}' is not" in str(caught.value)
    assert str(caught.value).endswith("the folder of a CLIP model, or use another scorer.")


REVISION = "c237dc49a33fc61debc9276459120b7eac67e7ef"


def ask_hub_at(endpoint, cache, monkeypatch):
    from huggingface_hub import constants

    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def unreachable_hub(tmp_path, monkeypatch):
    """An empty cache of the Hub, and a Hub that is away; to try again would take minutes."""
    ask_hub_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("tried again"))
    return tmp_path / "cache"


@pytest.fixture
def own_hub(clip, tmp_path, monkeypatch):
    """An empty cache, and a Hub that has the paper's model, and lists the paths of its requests."""
    paths = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            name = self.path.partition(f"/{CLIP}/resolve/{REVISION}/")[2]
            files = [{"type": "file", "path": file.name} for file in clip.iterdir()]
            files = [{**file, "rfilename": file["path"], "size": 1, "oid": "0"} for file in files]
            if self.path.startswith(f"/api/models/{CLIP}/tree/{REVISION}"):
                body = json.dumps(files).encode()
            elif self.path.startswith(f"/api/models/{CLIP}/revision/{REVISION}"):
                body = json.dumps({"id": CLIP, "sha": REVISION, "siblings": files}).encode()
            else:
                body = (clip / name).read_bytes() if name else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header(*("ETag", f'"{name}"') if body else ("X-Error-Code", "RepoNotFound"))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    ask_hub_at(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", monkeypatch)
    yield paths
    server.shutdown()
    server.server_close()
    thread.join()


def in_cache(cache):
    return cache / f"models--{CLIP.replace('/', '--')}" / "snapshots" / REVISION


def test_a_cached_clip_is_used_without_asking_the_hub(clip, unreachable_hub):
    shutil.copytree(clip, in_cache(unreachable_hub))
    expected = ClipFilter("bird", model=clip).score([picture(1)], rows("a"))
    assert torch.equal(expected, ClipFilter("bird").score([picture(1)], rows("a")))


def test_a_hub_that_cannot_be_reached_is_an_error_at_once(unreachable_hub):
    with pytest.raises(ModelUnavailableError, match="could not be fetched .*Connection refused"):
        ClipFilter("bird").score([picture(1)], rows("a"))


@pytest.mark.parametrize(
    "cached", [(), ("config.json", "model.safetensors"), ("config.json", "pytorch_model.bin")]
)
def test_what_is_missing_of_the_papers_clip_is_fetched_at_its_revision_once(
    clip, own_hub, tmp_path, cached
):
    for name in cached:
        in_cache(tmp_path / "cache").mkdir(parents=True, exist_ok=True)
        content = b"pickled" if name.endswith(".bin") else (clip / name).read_bytes()
        (in_cache(tmp_path / "cache") / name).write_bytes(content)
    expected = ClipFilter("bird", model=clip).score([picture(1)], rows("a"))
    assert torch.equal(expected, ClipFilter("bird").score([picture(1)], rows("a")))
    assert own_hub
    own_hub.clear()
    assert torch.equal(expected, ClipFilter("bird").score([picture(1)], rows("a")))
    assert [] == own_hub


def test_an_unknown_model_is_one_line(own_hub):
    with pytest.raises(ModelError, match="'nobody/nothing', .* nor on the Hub; check its name"):
        ClipFilter("bird", model="nobody/nothing", revision=REVISION).score([picture(1)], rows("a"))


def test_the_papers_clip_is_pinned_and_other_models_are_not_given_its_revision():
    assert REVISION == ClipFilter("bird")._spec.revision
    assert ClipFilter("bird", model="org/other")._spec.revision is None


def test_a_missing_clip_weight_is_an_error_and_not_a_random_number(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(clip, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = r"lacks 1 weights that a CLIP model needs \(visual_projection.weight, ...\); it is"
    with pytest.raises(ModelError, match=message):
        ClipFilter("bird", model=folder).score([picture(1)], rows("a"))


def test_pickled_clip_weights_are_refused_unread(clip, tmp_path):
    folder = shutil.copytree(clip, tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(ModelError, match="pickled, which can run code when read, and are refused"):
        ClipFilter("bird", model=folder).score([picture(1)], rows("a"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"no weights"),
        ("model.safetensors", None),
        ("config.json", b"{"),
        ("preprocessor_config.json", None),
    ],
)
def test_a_damaged_clip_folder_is_one_line(clip, tmp_path, file, content):
    folder = shutil.copytree(clip, tmp_path / "clip")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(
        ModelError, match="clip' is not a whole CLIP model: .*; get it again."
    ) as caught:
        ClipFilter("bird", model=folder).score([picture(1)], rows("a"))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, ModelUnavailableError)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "clip' is not a whole CLIP model: it has no config.json."),
        (
            "tokenizer.json",
            "clip' is not a whole CLIP model: its tokenizer has no vocabulary; get it",
        ),
    ],
)
def test_what_transformers_would_make_up_is_an_error(clip, tmp_path, file, message):
    folder = shutil.copytree(clip, tmp_path / "clip")
    (folder / file).unlink()
    with pytest.raises(ModelError, match=message):
        ClipFilter("bird", model=folder).score([picture(1)], rows("a"))


def test_a_clip_folder_of_whatever_save_pretrained_wrote_it_with_will_do(clip, tmp_path):
    from transformers import CLIPProcessor

    folder = shutil.copytree(clip, tmp_path / "clip")
    processor = CLIPProcessor.from_pretrained(clip)
    (folder / "preprocessor_config.json").unlink()
    processor.save_pretrained(folder)
    expected = ClipFilter("bird", model=clip).score([picture(1)], rows("a"))
    assert torch.equal(expected, ClipFilter("bird", model=folder).score([picture(1)], rows("a")))


def test_code_beside_a_clip_model_is_not_run_nor_asked_for(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked the user"))
    folder = shutil.copytree(clip, tmp_path / "clip")
    (folder / "mine.py").write_text("raise SystemExit")
    for name, key in (("preprocessor_config", "AutoImageProcessor"), ("config", "AutoModel")):
        settings = json.loads((folder / f"{name}.json").read_text())
        (folder / f"{name}.json").write_text(
            json.dumps({**settings, "auto_map": {key: "mine.Mine"}})
        )
    expected = ClipFilter("bird", model=clip).score([picture(1)], rows("a"))
    assert torch.equal(expected, ClipFilter("bird", model=folder).score([picture(1)], rows("a")))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metaclass": ""}, ValueError, "'metaclass' must say what all classes are, .* got ''"),
        ({"metaclass": "  "}, ValueError, "'metaclass' must say what all classes are"),
        ({"metaclass": None}, ValueError, "'metaclass' must say .* such as 'bird', got None"),
        ({"batch_size": 0}, ValueError, "'batch_size' must be at least 1, got 0"),
        ({"device": "gpu"}, ValueError, "'device' must be 'auto' or a torch device .* got 'gpu'"),
        ({"model": ""}, ValueError, "'model' must be a path, got ''"),
    ],
)
def test_clip_filter_refuses(options, error, message):
    with pytest.raises(error, match=message):
        ClipFilter(**{"metaclass": "bird", **options})


def test_a_gpu_that_is_not_there_is_an_error(clip, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(GenerationError, match="'device' is 'cuda:3', but torch sees 1 CUDA"):
        ClipFilter("bird", model=clip, device="cuda:3").score([picture(1)], rows("a"))


class Colours(nn.Module):
    """Logits that are four times the mean of each channel; dropout in training."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.parts = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3, affine=False))

    def forward(self, x):
        if self.training:
            x = self.parts(x)
        return self.scale * x.mean((2, 3))


NAMES = ["red", "green", "blue"]


def test_a_classifier_score_is_the_probability_of_the_label():
    pictures = [picture(1), picture(2), picture(3)]
    scores = ClassifierFilter(Colours(), NAMES).score(pictures, rows("blue", "red", "blue"))
    for score, image, channel in zip(scores, pictures, (2, 0, 2), strict=True):
        powers = [2.718281828459045 ** (4 * float(image[c].float().mean()) / 255) for c in range(3)]
        assert powers[channel] / sum(powers) == pytest.approx(float(score), abs=1e-6)


def test_images_of_any_size_are_resized_to_a_square_or_transformed():
    seen = []
    model = Colours()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pictures = [picture(1, 20, 30), picture(2, 50, 40)]
    ClassifierFilter(model, NAMES, size=16).score(pictures, rows("red", "red"))
    expected = torch.stack([resize(image, (16, 16)) / 255 for image in pictures])
    torch.testing.assert_close(seen[0], expected)
    transform = v2.Compose(
        [v2.Resize((8, 8)), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [2] * 3)]
    )
    ClassifierFilter(model, NAMES, transform=transform).score(pictures, rows("red", "red"))
    torch.testing.assert_close(seen[1], torch.stack([transform(image) for image in pictures]))


def test_a_classifier_comes_back_in_the_modes_it_was_in_even_after_an_error():
    model = Colours().train()
    model.parts[1].eval()
    modes = [module.training for module in model.modules()]
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    judge = ClassifierFilter(model, NAMES)
    first = judge.score([picture(1)], rows("red"))
    assert torch.equal(first, judge.score([picture(1)], rows("red")))
    assert not first.requires_grad
    assert modes == [module.training for module in model.modules()]
    for name, value in model.state_dict().items():
        assert torch.equal(statistics[name], value)
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge.score([picture(1)], rows("red"))
    assert modes == [module.training for module in model.modules()]


def test_a_classifier_in_another_precision_gets_images_in_it():
    model = Colours().double()
    expected = ClassifierFilter(Colours(), NAMES).score([picture(1)], rows("red"))
    actual = ClassifierFilter(model, NAMES).score([picture(1)], rows("red"))
    assert float(expected) == pytest.approx(float(actual), abs=1e-6)


def test_logits_may_lie_on_mps_which_has_no_float64():
    pictures = [picture(1), picture(2)]
    expected = ClassifierFilter(Colours(), NAMES).score(pictures, rows("red", "blue"))
    model = Colours()
    model.register_forward_hook(lambda _, __, logits: logits.as_subclass(OnMps))
    assert torch.equal(
        expected, ClassifierFilter(model, NAMES).score(pictures, rows("red", "blue"))
    )


def test_a_batch_that_a_classifier_has_no_memory_for_is_divided():
    model, sizes = Colours(), []
    judge, labels = ClassifierFilter(model, NAMES), ("red", "blue", "green", "red", "red")
    pictures = [picture(n) for n in range(5)]
    expected = judge.score(pictures, rows(*labels))

    def full(_, inputs):
        sizes.append(len(inputs[0]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(full)
    most = 2
    with pytest.warns(UserWarning, match="a batch of 5 does not fit into memory; later ones have"):
        torch.testing.assert_close(expected, judge.score(pictures, rows(*labels)))
    assert [5, 2, 2, 1] == sizes
    most = 0
    with pytest.raises(GenerationError, match="one image for the classifier does not fit into"):
        judge.score(pictures, rows(*labels))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": len}, TypeError, "'model' must be a torch module, got builtin_function"),
        ({"classes": "red"}, TypeError, "'classes' must be the classes' names .* got 'red'"),
        ({"classes": [0, 1]}, TypeError, r"in the order of the logits, got \[0, 1\]"),
        ({"classes": []}, ValueError, r"'classes' must hold different names, got \[\]"),
        ({"classes": ["a", "a"]}, ValueError, "'classes' must hold different names"),
        ({"size": 0}, ValueError, "'size' must be at least 1, got 0"),
        ({"batch_size": True}, TypeError, "'batch_size' must be an integer, got True"),
        ({"size": 8, "transform": abs}, ValueError, "'size' must be None .* got 8; resize in the"),
    ],
)
def test_classifier_filter_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        ClassifierFilter(**{"model": Colours(), "classes": NAMES, **changes})


def test_what_does_not_fit_a_classifier_is_one_line(tmp_path):
    judge = ClassifierFilter(Colours(), NAMES)
    message = "'classes' must hold every label of the set, and lacks 'cat'; it has red, green, blue"
    with pytest.raises(ValueError, match=message):
        judge.prepare(tmp_path, rows("red", "cat"))
    with pytest.raises(ValueError, match=message):
        judge.score([picture(1)], rows("cat"))
    with pytest.raises(ValueError, match=r"'size' must be given for images of several sizes, got"):
        judge.score([picture(1), picture(2, 8, 8)], rows("red", "red"))
    with pytest.raises(ValueError, match=r"'transform' must return images of one size"):
        ClassifierFilter(Colours(), NAMES, transform=v2.ToDtype(torch.float32, scale=True)).score(
            [picture(1), picture(2, 8, 8)], rows("red", "red")
        )
    message = r"'model' must return logits of shape \(1, 2\), got \(1, 3\)"
    with pytest.raises(ValueError, match=message):
        ClassifierFilter(Colours(), NAMES[:2]).score([picture(1)], rows("red"))


@pytest.fixture
def source(tmp_path):
    for name in "ab":
        path = tmp_path / "photos" / "cat" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(picture(ord(name), 48, 48), "png"))
    return tmp_path / "photos"


def of(*names):
    return [{"file_name": "x", "label": "cat", "source": f"cat/{name}.png"} for name in names]


def ssim(first, second):
    """Wang et al. 2004, equation 13, for (3, H, W) in [0, 1], with a window of 11 and sigma 1.5."""
    axis = torch.arange(11.0) - 5
    line = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2

    def mean(image):  # (3, H, W)
        padded = nn.functional.pad(image[None], (5, 5, 5, 5), mode="reflect")[0]
        return (padded.unfold(1, 11, 1).unfold(2, 11, 1) * window).sum((3, 4))

    m, n = mean(first), mean(second)
    v, w, c = mean(first**2) - m**2, mean(second**2) - n**2, mean(first * second) - m * n
    return ((2 * m * n + 1e-4) * (2 * c + 9e-4) / ((m**2 + n**2 + 1e-4) * (v + w + 9e-4))).mean()


def test_similarity_is_the_ssim_to_the_source_at_a_common_size(source):
    pictures = [picture(5, 30, 60), picture(6, 48, 48)]
    scores = SimilarityFilter(source, size=32).score(pictures, of("a", "b"))
    for score, image, name in zip(scores, pictures, "ab", strict=True):
        original = resize(read_image(source / f"cat/{name}.png"), (32, 32)) / 255
        expected = ssim(resize(image, (32, 32)) / 255, original)
        assert float(expected) == pytest.approx(float(score), abs=1e-4)


def test_sources_of_16_bits_have_the_white_of_the_run(source, tmp_path):
    levels = (torch.arange(48 * 48).reshape(48, 48) * 4095 // 2303).numpy().astype("<u2")
    Image.fromarray(levels).save(source / "cat/a.png")
    write_run(tmp_path, {"source": str(source), "identity": {"white": 4095}})
    judge = SimilarityFilter(size=32)
    judge.prepare(tmp_path, of("a"))
    same = read_image(source / "cat/a.png", white=4095)
    assert 1 == pytest.approx(float(judge.score([same], of("a"))[0]), abs=1e-5)


def test_an_edit_that_changed_nothing_scores_one_and_noise_about_nothing(source):
    original = read_image(source / "cat/a.png")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 48, 48), generator=generator).to(torch.uint8)
    judge = SimilarityFilter(source)
    same, lost = judge.score([original, noise], of("a", "a")).tolist()
    assert 1 == pytest.approx(same, abs=1e-5)
    assert lost < judge.bounds[0] < judge.bounds[1] < same


def test_a_source_that_cannot_be_read_gives_no_score(source):
    (source / "cat/b.png").write_bytes(b"")
    judge = SimilarityFilter(source)
    scores = judge.score([picture(1), picture(1), picture(1)], of("a", "b", "gone"))
    assert [False, True, True] == scores.isnan().tolist()


def test_the_folder_of_sources_is_the_one_given_or_the_one_recorded(source, tmp_path):
    moved = shutil.copytree(source, tmp_path / "moved")
    (tmp_path / "set").mkdir()
    for recorded, given in ((source, None), ("/gone", moved)):
        write_run(tmp_path / "set", {"identity": {}, "source": str(recorded)})
        judge = SimilarityFilter(given)
        judge.prepare(tmp_path / "set", of("a"))
        original = read_image(source / "cat/a.png")
        assert 1 == pytest.approx(float(judge.score([original], of("a"))), abs=1e-5)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (None, "made from, and run.json names none; give SimilarityFilter that folder"),
        ("CIFAR10 of 5", "made from, and 'CIFAR10 of 5' is no folder here; give Similarity"),
        ("{here}", "has none of its images, such as 'cat/a.png'; give SimilarityFilter another"),
    ],
)
def test_a_set_whose_sources_cannot_be_found_is_refused_at_once(tmp_path, run, message):
    if run:
        source = run.format(here=tmp_path)
        write_run(tmp_path, {"identity": {}, "source": source})
    with pytest.raises(ValueError, match=message):
        SimilarityFilter().prepare(tmp_path, of("a", "b"))


def test_similarity_outside_a_set_wants_its_source():
    with pytest.raises(ValueError, match="'source' must be given to score images outside"):
        SimilarityFilter().score([picture(1)], of("a"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": -2}, r"'low' must be in \[-1, 1\], got -2"),
        ({"high": 1.5}, r"'high' must be in \[-1, 1\], got 1.5"),
        ({"low": 0.9, "high": 0.1}, "'low' must not be above 'high', got 0.9 and 0.1"),
        ({"size": 8}, "'size' must be at least 16, got 8"),
    ],
)
def test_similarity_filter_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        SimilarityFilter(**options)
