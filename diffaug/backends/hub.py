"""A model's files: pin which version of them is meant, find them on this machine, fetch them."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from diffaug.backends.kinds import settings_of
from diffaug.backends.model_files import (
    components,
    flat_files,
    needed_files,
    read_index,
)
from diffaug.backends.presets import HUB_ID, PRESETS, name_of
from diffaug.backends.revisions import (
    hash_files,
    only_file,
    other_hashes,
    split_file,
    split_revision,
    weight_of,
)
from diffaug.backends.spec import ModelSpec
from diffaug.backends.wholeness import has_vocabulary, is_whole
from diffaug.errors import (
    DiffaugError,
    ModelError,
    ModelUnavailableError,
    disk_trouble,
    first_line,
    unwritable,
)
from diffaug.files import write_whole

_log = logging.getLogger("diffaug")
_loading_log = logging.getLogger("diffaug.loading")

#: Of a model whose configuration says none, such as one without a U-Net.
SIZE = 512
_COMMIT = re.compile(r"[0-9a-f]{40}")


def pin(spec: ModelSpec) -> ModelSpec:
    """Fill in the revisions, and the size that is not given: tomorrow a spec means the same.

    The revision of a folder, or of a local adapter, is the hash of the files that loading reads.
    Each is hashed once and remembered by path, size and time of change. The revision of a Hub id is
    the commit of ``main``, or of the branch given, from the local cache or else from the Hub. An
    adapter's revision follows an ``@``. The size is that of the model's small JSON files, of which
    those of a Hub id are fetched.

    Raises:
        ModelError: a folder holds other files than its revision names, or the Hub does not know
            the id.
        ModelUnavailableError: no such folder, or the Hub cannot be reached.
    """
    model, revision = _pin(spec.model, spec.revision, spec)
    size = spec.size
    if size is None:
        size = _own_size(replace(spec, model=model, revision=revision)) or SIZE
    return replace(
        spec,
        model=model,
        revision=revision,
        size=size,
        adapters=tuple(_pin_adapter(adapter) for adapter in spec.adapters),
    )


def _own_size(spec: ModelSpec) -> int | None:
    """Return the size that the configuration of a pinned model says; None where it says none."""
    folder, asked = folder_of(spec), False
    here = Path(spec.model).is_dir()
    for file in () if here else ("model_index.json", "unet/config.json", "vae/config.json"):
        part = file.partition("/")[0]
        if part != file and part not in read_index(folder):
            return None
        if is_whole(folder / file):
            continue
        with _fetching_a_commit(spec):
            if not asked and file not in _sizes(spec):
                return None
            asked = True
            _fetch_file(spec, file)
    if not os.path.isfile(folder / "model_index.json"):
        return None  # it is no model of diffusers, which loading says
    size: int | None = settings_of(folder).get("size")
    return size


def _fetch_file(spec: ModelSpec, file: str) -> Path:
    """Fetch a small file of a Hub model; again if it is here and not whole."""
    from huggingface_hub import hf_hub_download

    here = folder_of(spec) / file
    damaged = here.is_file() and not is_whole(here)
    return Path(hf_hub_download(spec.model, file, revision=spec.revision, force_download=damaged))


def _pin_adapter(adapter: str) -> str:
    """Fill in the revision of an adapter; its file and its weight stay."""
    (reference, file), (_, revision) = split_file(adapter), split_revision(adapter)
    reference, revision = _pin(reference, revision, None)
    named = f"{reference}/{file}" if file else reference
    weight = "" if "*" not in adapter else f"*{weight_of(adapter)}"
    return f"{named}@{revision}{'' if weight == '*1.0' else weight}"


def _pin(reference: str, revision: str | None, spec: ModelSpec | None) -> tuple[str, str]:
    """Fill in the revision of a model, or of an adapter, for which there is no spec."""
    path = Path(reference).expanduser()
    if path.exists():
        actual = hash_files(path, spec)
        if revision not in (None, actual) and revision not in {*other_hashes(path, spec)}:
            raise ModelError(
                f"'{reference}' holds other files than revision {revision!r} names; its revision "
                f"is {actual!r} now. Use that, or None for whatever is there."
            )
        return str(path.resolve()), actual
    if not HUB_ID.fullmatch(reference):
        raise ModelUnavailableError(
            f"there is no model at '{reference}'; give an existing folder, a Hub id like "
            f"'org/name' or a preset's name ({', '.join(PRESETS)})."
        )
    if revision and _COMMIT.fullmatch(revision):
        return reference, revision
    commit = _commit(reference, revision or "main")
    _log.warning("'%s' is pinned to revision %s", reference, commit)
    return reference, commit


def is_revision(spec: ModelSpec, revision: str | None) -> bool:
    """Return whether a revision is that of a spec's model, perhaps read in another variant."""
    pinned = pin(spec)
    path = Path(pinned.model)
    return revision == pinned.revision or (
        path.exists() and revision in {*other_hashes(path, spec)}
    )


def cached_repository(repository: str) -> Path:
    """Return the folder that a Hub model is fetched into; ``HF_HOME`` moves it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _cached_commit(repository: str, branch: str) -> str | None:
    reference = cached_repository(repository) / "refs" / branch
    commit = reference.read_text().strip() if reference.is_file() else ""
    return commit or None  # a full disk leaves an empty file


def _commit(repository: str, branch: str) -> str:
    commit = _cached_commit(repository, branch)
    if commit is None:
        from huggingface_hub import HfApi

        with _asking_the_hub(repository):
            commit = str(HfApi().model_info(repository, revision=branch, timeout=10).sha)
        # We download by commit, so nothing else records the branch. Without the record, a model
        # that is here could not be used offline.
        reference = cached_repository(repository) / "refs" / branch
        with suppress(OSError):
            write_whole(reference, commit.encode())  # half of it would be a wrong commit
    return commit


def downloaded(spec: ModelSpec) -> bool:
    """Return whether a model can be loaded without network; the Hub is not asked."""
    try:
        return _local(spec) is not None and all(map(_local_adapter, spec.adapters))
    except ModelError:
        return False


def _local(spec: ModelSpec) -> Path | None:
    """Return the folder of a model whose needed files are all on this machine, and whole."""
    folder = folder_of(spec)
    fetched = not Path(spec.model).expanduser().is_dir()
    if not os.path.isfile(folder / "model_index.json") or (
        fetched and _unfinished(folder).exists()
    ):
        return None
    index = read_index(folder)
    files = [file.relative_to(folder).as_posix() for file in folder.glob("*/*")]
    needed = needed_files(files, index, spec)
    for name, (_, kind) in components(index, spec).items():
        part = [file.partition("/")[2] for file in needed if file.startswith(f"{name}/")]
        is_model = "config.json" in part
        if not part or (is_model and not any(file.endswith(".safetensors") for file in part)):
            return None
        if "Tokenizer" in kind and not has_vocabulary(kind, part):
            return None
    # Loading says better what is wrong with a file of a user's own.
    check = is_whole if fetched else Path.is_file
    return folder if all(check(folder / file) for file in needed) else None


def _unfinished(snapshot: Path) -> Path:
    """Return the file that is there while a download runs, and after one that was cut off.

    What a repository lists is known online alone, and each file that came is whole: without this
    mark, nothing here would show that a small file, such as that of special tokens, never came.
    """
    return snapshot.parents[1] / f".unfinished-{snapshot.name}"


@contextmanager
def _fetching(repository: str, revision: str | None) -> Iterator[None]:
    mark = _unfinished(_snapshot(repository, revision))
    with suppress(OSError):  # the download itself says what is wrong with the folder
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    yield
    mark.unlink(missing_ok=True)


def _fetch(repository: str, revision: str | None, patterns: list[str], force: bool) -> Path:
    """Fetch files of a repository that are not here, or not whole; with ``force``, all."""
    from huggingface_hub import hf_hub_download, snapshot_download

    snapshot = _snapshot(repository, revision)
    with _fetching(repository, revision):
        if not force:  # the library takes whatever has the name for whole
            for file in snapshot.rglob("*"):
                name = file.relative_to(snapshot).as_posix()
                wanted = any(fnmatch(name, pattern) for pattern in patterns)
                if wanted and file.is_file() and not is_whole(file):
                    hf_hub_download(repository, name, revision=revision, force_download=True)
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=patterns, force_download=force
            )
        )


def folder_of(spec: ModelSpec) -> Path:
    """Return the folder that holds a model's files, or that a download would put them into."""
    folder = Path(spec.model).expanduser()
    return folder if folder.is_dir() else _snapshot(spec.model, spec.revision)


def _snapshot(repository: str, revision: str | None) -> Path:
    if not revision or not _COMMIT.fullmatch(revision):
        revision = _cached_commit(repository, revision or "main") or "none"
    return cached_repository(repository) / "snapshots" / revision


def _local_adapter(adapter: str) -> Path | None:
    (reference, name), (_, revision) = split_file(adapter), split_revision(adapter)
    path = Path(reference).expanduser()
    if path.exists():
        if path.is_file():
            return path if path.suffix == ".safetensors" else None
        chosen = only_file((file.name for file in path.glob("*.safetensors")), adapter)
        return path / chosen if chosen else None
    path = _snapshot(reference, revision)
    if name is None:
        if _unfinished(path).exists():
            return None
        name = only_file((file.name for file in path.glob("*.safetensors")), adapter)
    return path / name if name and is_whole(path / name) else None


def adapter_file(adapter: str, *, force: bool = False) -> Path:
    """Return the safetensors file of an adapter; fetch it if it is not here, or with ``force``.

    Raises:
        ModelError: the adapter has no such file, perhaps only a pickle; or it has several.
        ModelUnavailableError: the Hub cannot be reached.
    """
    (reference, name), (_, revision) = split_file(adapter), split_revision(adapter)
    if not Path(reference).expanduser().exists() and (force or _local_adapter(adapter) is None):
        with _asking_the_hub(reference):
            _fetch_adapter(adapter, *_pin(reference, revision, None), name, force)
    file = _local_adapter(adapter)
    if file is None:
        raise ModelError(
            f"the adapter '{adapter}' holds no safetensors file{f' {name}' if name else ''}, and "
            "pickles are refused; save it as safetensors."
        )
    return file


def _fetch_adapter(
    adapter: str, repository: str, revision: str, name: str | None, force: bool
) -> None:
    listed = _sizes(ModelSpec(repository, revision=revision))
    whole = name is None
    if name is None:
        files = (file for file in listed if "/" not in file and file.endswith(".safetensors"))
        name = only_file(files, adapter)
    if name not in listed:
        return
    mark = _unfinished(_snapshot(repository, revision))
    others = not whole and (mark.exists() or not _snapshot(repository, revision).exists())
    _fetch(repository, revision, [name, "*.json"], force)
    if others:  # of a repository with several files, this one is not the only one
        mark.touch()


def download(spec: ModelSpec, *, force: bool = False) -> Path:
    """Fetch what loading a model reads (safetensors and small text files), and its adapters.

    Nothing whole is fetched twice, but with ``force``. A local folder is left alone. ``HF_TOKEN``,
    ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are honoured.

    Raises:
        ModelError: the model is unknown, gated, incomplete, or has pickled weights only.
        ModelUnavailableError: the Hub cannot be reached.
    """
    spec = pin(spec)
    for adapter in spec.adapters:
        adapter_file(adapter, force=force)
    if Path(spec.model).is_dir():
        if _local(spec) is None:
            raise ModelError(
                f"'{spec.model}' lacks weights or settings that its model_index.json names; "
                "save it again with save_pretrained."
            )
        return Path(spec.model)
    if downloaded(spec) and not force:
        return _snapshot(spec.model, spec.revision)
    with _fetching_a_commit(spec):
        files = _hub_files(spec)
        _announce(spec.model, sum(files.values()))
        return _fetch(spec.model, spec.revision, list(files), force)


@contextmanager
def _fetching_a_commit(spec: ModelSpec) -> Iterator[None]:
    """Ask the Hub; where that fails, name another commit that is here."""
    try:
        with _asking_the_hub(spec.model):
            yield
    except ModelUnavailableError as error:
        if (commit := _commit_here(spec)) is None:
            raise
        raise ModelUnavailableError(
            f"'{spec.model}' is on this machine at commit {commit}, and {spec.revision} is wanted, "
            f"which the Hub cannot send now; set revision='{commit}' ('--revision' on the command "
            f"line), or run `diffaug download {name_of(spec.model)}` where there is a network."
        ) from error


def _commit_here(spec: ModelSpec) -> str | None:
    """Return another commit at which a Hub model is whole on this machine."""
    snapshots = cached_repository(spec.model) / "snapshots"
    commits = sorted(folder.name for folder in snapshots.glob("*") if folder.name != spec.revision)
    return next((c for c in commits if downloaded(replace(spec, revision=c, adapters=()))), None)


def download_flat(spec: ModelSpec) -> Path:
    """Fetch what loading reads of a pinned Hub model in one folder, as transformers saves it.

    Raises:
        ModelError: the model is unknown, gated, or has pickled weights only.
        ModelUnavailableError: the Hub cannot be reached.
    """
    with _asking_the_hub(spec.model):
        sizes = _sizes(spec)
        files = flat_files(sizes, spec.model)
        _announce(spec.model, sum(sizes.get(file, 0) for file in files))
        return _fetch(spec.model, spec.revision, files, force=False)


def _announce(repository: str, size: int) -> None:
    """Log what is fetched: it may take an hour."""
    folder = cached_repository(repository)
    _loading_log.info("downloading %s, %.2f GB, into %s ...", repository, size / 1e9, folder)


def _sizes(spec: ModelSpec) -> dict[str, int]:
    """Return the files of a Hub model and their sizes.

    It fails at once without network, while a download tries again for half a minute: ask it first.
    """
    from huggingface_hub import HfApi

    info = HfApi().model_info(spec.model, revision=spec.revision, files_metadata=True, timeout=10)
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _hub_files(spec: ModelSpec) -> dict[str, int]:
    """Return the files of a Hub model that loading reads, and their sizes."""
    sizes = _sizes(spec)
    if "model_index.json" not in sizes:
        raise ModelError(f"'{spec.model}' has no model_index.json: it is not a diffusers model.")
    index = read_index(_fetch_file(spec, "model_index.json").parent)
    return {file: sizes.get(file, 0) for file in needed_files(sizes, index, spec)}


@contextmanager
def _asking_the_hub(repository: str) -> Iterator[None]:
    """Turn what goes wrong with the Hub into one line that says what to do next."""
    from huggingface_hub import errors

    try:
        yield
    except DiffaugError:
        raise
    except errors.GatedRepoError as error:
        raise ModelError(
            f"'{repository}' is gated: accept its terms at https://huggingface.co/{repository}, "
            "then set HF_TOKEN."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelError(
            f"'{repository}', or the revision asked for, is neither a folder here nor on the Hub; "
            "check its name, or set HF_TOKEN if it is private."
        ) from error
    except Exception as error:
        if full := disk_trouble(error):
            raise unwritable(cached_repository(repository), full, "written to") from error
        reason = first_line(error)
        raise ModelUnavailableError(
            f"'{repository}' is not on this machine and the Hub cannot be reached "
            f"({type(error).__name__}: {reason}); run `diffaug download {name_of(repository)}` "
            "where there is a network, set HF_ENDPOINT to a mirror, or use backend='tiny'."
        ) from error
