"""The offline job: a folder or a dataset in, a set of augmented images with its manifest out."""

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffaug.backends import finetuned
from diffaug.backends.spec import ModelSpec
from diffaug.checked import Items, checked
from diffaug.errors import DestinationError
from diffaug.labels import samples
from diffaug.offline.dataset_source import DatasetSource
from diffaug.offline.destination import Destination, check_outside
from diffaug.offline.folder_source import FolderSource
from diffaug.offline.generate import Maker
from diffaug.offline.identity import identity, pinned
from diffaug.offline.lookalikes import refuse_set_of_images
from diffaug.offline.options import Options
from diffaug.offline.run import Run, pairs_up
from diffaug.offline.shards import Shard, begun_with_marks, join, parts_of, unfinished
from diffaug.offline.sources import Skipped, Source
from diffaug.offline.summary import Summary, SummaryWarning, Tally
from diffaug.offline.trees import LocalTree
from diffaug.seeds import derive_seed
from diffaug.switches import own_defaults
from diffaug.transforms.base import ImageTransform

#: Why a share of a set that is merged does not make an image.
MERGED = "it was skipped before the parts were merged; if it is mended, run without a share"


@checked
def augment_folder(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    transform: ImageTransform,
    *,
    per_image: int | None = None,
    seed: int = 0,
    size: int | tuple[int, int] | str | None = None,
    format: str = "jpg",
    include_originals: bool = False,
    mark: bool = True,
    only: Iterable[str] | None = None,
    white: int | None = None,
    shard: str | Shard | None = None,
    engine: str = "local",
    devices: str | Sequence[str | int] | None = None,
    strict: bool = False,
    dry_run: bool = False,
    progress: bool = False,
) -> Summary:
    """Augment a class-per-folder tree of images into a set on disk; the label is the folder.

    Run it again after any interruption, and it makes what is missing. The set holds
    ``<class>/<path and stem>__<n>.<format>`` (the source's extension stays where two stems are the
    same), ``metadata.jsonl`` with a row for each image, ``run.json``, and a card. Every class has
    its folder, also one without images. The set loads with :class:`GeneratedDataset`; with
    torchvision's ``ImageFolder`` if every class has images; and with Hugging Face's
    ``load_dataset(destination)``.

    Args:
        source: a folder with one folder per class, or an address that fsspec reads, such as
            ``s3://bucket/train``.
        destination: a new folder, or the folder of this run, which is resumed.
        transform: which augmentation; its ``p`` is ignored.
        per_image: copies of each image, >= 1; None for as many as the transform advises. A larger
            number than before adds the missing copies; a smaller number removes none.
            :class:`DiffMix` draws ``per_image`` times as many pairs as there are images, and puts
            each result into the folder of its target class.
        seed: with the transform's settings it determines the set.
        size: resize sources first, as ``v2.Resize`` does: to this shorter side in pixels, or to
            ``(height, width)``; None keeps their size.
        format: ``"jpg"``, ``"png"`` or ``"webp"``.
        include_originals: write each source too, in the same size and format, as ``__original``.
        mark: write into the file of each generated image that it is one; the pixels stay.
        only: paths below the source; all other images are left out. For example, the images that a
            model was fine-tuned on.
        white: the value that is white in files of 16 bits, such as 4095 for 12-bit X-rays.
        shard: ``"3/16"``: make this share alone, in a process or on a machine of its own. The last
            share to finish merges all of them. The set is the same as that of a single run.
        engine: ``"local"``, or ``"ray"``: a model on each GPU of the Ray cluster at
            ``RAY_ADDRESS``, or of one started here; its machines must be able to read the source.
        devices: a model in a process on each of these, such as ``"0,1,2,3"`` or ``["cuda:0"]``;
            ``"auto"`` for every GPU; None for one in this process.
        strict: stop at the first unreadable image rather than skip it.
        dry_run: count, and estimate time and disk from one batch if the model is on this machine;
            write nothing, download nothing.
        progress: show a bar on stderr.

    Raises:
        ValueError: an argument is outside its range, there is no image in a class folder, or the
            source is a generated set.
        UnreadableImageError: with ``strict``, a file is not a whole image.
        DestinationError: the destination lies in the source, holds something else, is in use, or
            cannot be written to.
        MissingDependencyError: Ray, or the package that reads the address, is not installed.
        DiffaugError: the model cannot be loaded or run, or the address cannot be read.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from torchvision.utils import save_image
        >>> from diffaug import PromptEdit, RecordingBackend, augment_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "photos", "cat").mkdir(parents=True)
        ...     save_image(torch.rand(3, 32, 48), f"{folder}/photos/cat/tom.png")
        ...     edit = PromptEdit(backend=RecordingBackend())
        ...     done = augment_folder(f"{folder}/photos", f"{folder}/set", edit, per_image=2)
        ...     sorted(path.name for path in Path(folder, "set", "cat").iterdir()), done.made
        (['tom__0.jpg', 'tom__1.jpg'], 2)
    """
    options = Options(
        per_image=per_image, seed=seed, size=size, format=format,
        include_originals=include_originals, mark=mark, shard=Shard.parse(shard), engine=engine,
        devices=devices, strict=strict, dry_run=dry_run, progress=progress,
    )  # fmt: skip
    images = FolderSource(source, only, white)
    if isinstance(images.files, LocalTree):
        check_outside(destination, images.files.root)
    return _augment(images, destination, transform, options)


@checked
def augment_dataset(
    dataset: Items,
    destination: str | os.PathLike[str],
    transform: ImageTransform,
    *,
    per_image: int | None = None,
    seed: int = 0,
    size: int | tuple[int, int] | str | None = None,
    format: str = "jpg",
    include_originals: bool = False,
    mark: bool = True,
    class_names: Sequence[str] | None = None,
    image_getter: samples.Getter = "default",
    labels_getter: samples.Getter = "default",
    shard: str | Shard | None = None,
    engine: str = "local",
    devices: str | Sequence[str | int] | None = None,
    strict: bool = False,
    dry_run: bool = False,
    progress: bool = False,
) -> Summary:
    """Augment a map-style dataset into a set on disk, each image in the folder of its class.

    It works as :func:`augment_folder` does, and names images ``<class>/<index>__<n>.<format>``.
    Where the transform keeps the label, it may be anything: numbers that are not one class (several
    labels, weights, a measure) stand in the image's row, and the image in no class's folder.

    Args:
        dataset: of ``(image, label)`` pairs (torchvision) or of dicts with ``image`` or ``img`` and
            ``label``, ``labels`` or ``fine_label`` (Hugging Face); without random transforms.
        destination: as for :func:`augment_folder`, and so are transform, per_image, seed, size,
            format, include_originals, mark, shard, engine, devices, strict, dry_run and progress.
        class_names: names in the order of the labels; by default those of the dataset's
            ``classes`` or features, else the transform's. Without any, the number is the name.
        image_getter, labels_getter: where an item has its image and its label: a key, an index or a
            callable; by default as the transform has it, or in the usual places.

    Shape:
        Images: PIL, or ``(C, H, W)`` with 1 or 3 channels, uint8 or float in [0, 1].

    Raises:
        TypeError: the dataset has no length or no integer indices, or an item holds no image.
        ValueError, DiffaugError: as for :func:`augment_folder`; also, a label has no name.
        SourceError: many items in a row cannot be read, or all of them.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from diffaug import PromptEdit, RecordingBackend, augment_dataset
        >>> data = [(torch.rand(3, 32, 32), 0), (torch.rand(3, 32, 32), 1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     edit = PromptEdit(backend=RecordingBackend())
        ...     done = augment_dataset(data, folder, edit, class_names=["cat", "dog"])
        ...     [path.name for path in Path(folder, "dog").iterdir()]
        ['000001__0.jpg']
    """
    options = Options(
        per_image=per_image, seed=seed, size=size, format=format,
        include_originals=include_originals, mark=mark, shard=Shard.parse(shard), engine=engine,
        devices=devices, strict=strict, dry_run=dry_run, progress=progress,
    )  # fmt: skip
    refuse_set_of_images(dataset)
    own = samples.getters_in(transform)
    source = DatasetSource(
        dataset,
        class_names,
        fallback_names=getattr(transform, "class_names", None),
        image_getter=own[0] if image_getter == "default" else image_getter,
        labels_getter=own[1] if labels_getter == "default" else labels_getter,
        needs_class=isinstance(transform, ImageTransform)
        and (transform.needs_label or pairs_up(transform)),
        strict=strict,
    )
    source.warn_of_order()
    return _augment(source, destination, transform, options)


def _check_subset(spec: ModelSpec | None, source: Source) -> None:
    """Warn where a model was fine-tuned on a few images, and the source has other images."""
    tuned = finetuned.find(spec) if spec else None
    if tuned is None or tuned.shots is None or set(tuned.files) == set(source.keys):
        return
    warnings.warn(
        f"'{tuned.folder}' was fine-tuned on {len(tuned.files)} images ({tuned.shots} of a class, "
        f"seed {tuned.seed}), and 'source' has {len(source.keys)} that are not the same; images "
        "that the classifier must not see should not reach it through the generator: see 'only'.",
        UserWarning,
        stacklevel=5,
    )


def _augment(
    source: Source,
    destination: str | os.PathLike[str],
    transform: ImageTransform,
    options: Options,
) -> Summary:
    if not isinstance(transform, ImageTransform):
        raise TypeError(
            "'transform' must be one of diffaug's, such as DiffuseMix, "
            f"got {type(transform).__name__}."
        )
    if re.match(r"\w{2,}:/", os.fspath(destination)):
        raise ValueError(
            f"'destination' must be a local folder, got '{destination}'; upload the set when it is "
            "finished."
        )
    spec = pinned(transform.backend)
    # A set keeps the setting it was begun with: those of older versions have no marks.
    options = replace(options, mark=options.mark and begun_with_marks(destination))
    settings = options.identity()
    if source.white is not None:  # a set that was made without it can be resumed
        settings["white"] = source.white
    if pairs_up(transform):  # the pairs depend on which images there are
        settings["sources"] = f"{derive_seed(source.keys):x}"
        _check_subset(spec, source)
    whole = Destination(destination, identity(transform, spec, settings))
    job = _Augmentation(source, whole, transform, spec, options)
    with own_defaults():
        summary = job.make_whole() if options.shard is None else job.make_part(options.shard)
    for text in summary.warnings(order=isinstance(source, FolderSource)):
        warnings.warn(f"{text}.", SummaryWarning, stacklevel=4)
    return summary


@dataclass(frozen=True)
class _Augmentation:
    """A set to make: its source, its folder, the transform, the model, and the options."""

    source: Source
    whole: Destination
    transform: ImageTransform
    spec: ModelSpec | None
    options: Options

    def make_whole(self) -> Summary:
        """Make the set in this process."""
        recorded = self._recorded()  # a folder is refused before it is touched
        folder = self.whole.folder
        if parts := parts_of(folder):
            raise DestinationError(
                f"'{folder}' holds parts, such as {parts[0]}; finish these, or call merge "
                "('diffaug merge')."
            )
        if self.options.dry_run:
            return self._run(self.whole, recorded).dry()
        with self.whole:
            recorded = self._recorded()  # again: another run may have been faster
            return self._run(self.whole, recorded).go()

    def make_part(self, share: Shard) -> Summary:
        """Make one part of the set, and merge all parts if it was the last."""
        whole, folder = self.whole, self.whole.folder
        finished = self._recorded() or {}
        if any(part.total != share.total for part in parts_of(folder)):
            raise DestinationError(
                f"'{folder}' holds parts of another division than {share}; finish or remove them."
            )
        part = Destination(share.folder(folder), {**whole.identity, "shard": str(share)})

        def run_of(destination: Destination, **more: Any) -> Run:
            return self._run(destination, part.recorded() or whole.recorded(), **more)

        skipped = {entry["source"] for entry in finished.get("skipped", ())}
        missing = run_of(whole).missing()
        merged = "images" in finished and all(planned.source in skipped for planned in missing)
        if self.options.dry_run or (merged and not parts_of(folder)):
            if not self.options.dry_run:
                whole.tidy()
            run = run_of(part, takes=share.takes, there=whole.rows())
            if self.options.dry_run:
                return replace(run.dry(), destination=folder)
            missing_here = {planned.source for planned in run.missing()}
            run.skipped += [Skipped(source, MERGED) for source in sorted(missing_here & skipped)]
            tally = Tally()
            tally.count(whole.rows())
            return replace(run.told(run.summary(), tally), destination=folder)
        with part:  # the rows are read again: another run may have been faster
            run = run_of(part, takes=share.takes, there=whole.rows())
            run.begin()
            summary = run.go()
        if unfinished(folder):  # what a share lacks says nothing of the set
            summary = replace(summary, empty=(), reordered=False)
        else:
            summary = run.told(summary, join(folder))
        return replace(summary, destination=folder)

    def _run(self, destination: Destination, recorded: dict[str, Any] | None, **more: Any) -> Run:
        maker = Maker(self.source, self.transform, self.spec, self.options, recorded)
        return Run(maker, destination, **more)

    def _recorded(self) -> dict[str, Any] | None:
        """Return what the folder records of this run; refuse the folder of another source."""
        recorded = self.whole.recorded()
        if recorded and not self.source.may_be(recorded["source"]):
            raise DestinationError(
                f"'{self.whole.folder}' holds a set made from '{recorded['source']}', and 'source' "
                f"is '{self.source.name}' now; choose another folder."
            )
        part = (recorded or {}).get("part")
        if part and self.source.part and part != self.source.part:
            raise DestinationError(
                f"'{self.whole.folder}' holds a set made from other items of an {part['of']}; "
                "choose another folder."
            )
        return recorded
