"""Transforms that see the label, and draws that do not depend on the workers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from diffaug import images
from diffaug.arguments import whole
from diffaug.checked import Items, checked
from diffaug.datasets.draws import Draws, Stream
from diffaug.datasets.epoch import pass_epoch
from diffaug.errors import one_line
from diffaug.labels import samples
from diffaug.labels.class_names import check_order
from diffaug.labels.map_style import check_dataset, position
from diffaug.transforms.base import ImageTransform, augmenting
from diffaug.transforms.pausing import Pause, PausedError, answer, pausing

_ALBUMENTATIONS = "give lambda image: augment(image=np.asarray(image))['image']"
#: Requests that one call of a model takes: more than any model runs at once.
MOST_AT_ONCE = 64


@checked
class JointTransform(Dataset):
    """Give transforms the label beside the image: ``transforms((image, label))``.

    A dataset's own ``transform`` sees the image alone, which is not enough for :class:`DiffMix`.
    With a seed, all that is drawn from torch's CPU generator, by the dataset too, follows from
    (seed, epoch, index, n), with any number of workers. An index that is asked for again, as
    oversampling does, is drawn anew: n says how often it was asked for before in this epoch.
    The images of a loader's batch are generated together.

    Args:
        dataset: map-style, of ``(image, label, ...)`` or of dicts; without a transform of its own
            that makes tensors of 3 floats.
        transforms: called with the whole sample; a ``v2.Compose``, or any callable.
        then: called with the image alone, after ``transforms``: what knows no labels, such as
            timm's. With a seed, Python's and NumPy's generators are seeded for it, too.
        seed: at least 0; None draws from each worker's own random state.
        image_getter: where the image is, if not first or under ``image``, ``img`` or
            ``pixel_values``: a key, an index or a callable; by default that of the transforms.

    Attributes ``classes``, ``class_to_idx`` and ``targets`` are those of the dataset.

    Raises:
        TypeError: the dataset has no length or no indices, or a transform cannot be called.
        ValueError: :class:`DiffMix` has the dataset's classes in another order.

    Example:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> from diffaug import DiffMix, JointTransform, RecordingBackend
        >>> mix = DiffMix(["cat", "dog"], p=0.5, backend=RecordingBackend())
        >>> photos = [(torch.rand(3, 32, 32), 0)]
        >>> data = JointTransform(photos, v2.Compose([mix, v2.RandomCrop(28)]), seed=0)
        >>> image, label = data[0]
        >>> image.shape, label.shape
        (torch.Size([3, 28, 28]), torch.Size([2]))
    """

    def __init__(
        self,
        dataset: Items,
        transforms: Any,
        *,
        then: Callable[[Any], Any] | None = None,
        seed: int | None = None,
        image_getter: samples.Getter = "default",
    ) -> None:
        check_dataset(dataset)
        if not callable(transforms):
            raise TypeError(f"'transforms' must be callable, got {type(transforms).__name__}.")
        if then is not None and not callable(then):
            raise TypeError(f"'then' must be callable, got {type(then).__name__}.")
        check_order(dataset, transforms)
        self.dataset = dataset
        self.transforms = transforms
        self.then = then
        self._then_is_given = then is not None
        if image_getter == "default":
            image_getter = samples.getters_in(transforms)[0]
        self.image_getter = samples.check_getter("image_getter", image_getter)
        self._draws = Draws("sample", seed, len(dataset))
        self._enabled = torch.ones((), dtype=torch.bool).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._enabled.share_memory_()  # a plain copy is in memory of its own

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        index = position(index, len(self))
        with augmenting(self.enabled, len(self)):
            if self.seed is None:
                return self._sample(index)
            with self._draws.seeded(index, everywhere=self.then is not None):
                return self._sample(index)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the items of a batch, whose images are generated together; loaders call this."""
        steps = _steps_of(self.transforms)
        plain = type(self).__getitem__ is JointTransform.__getitem__
        if len(indices) < 2 or not plain or not any(map(_generates, steps)):
            return [self[index] for index in indices]
        with augmenting(self.enabled, len(self)):
            items = []
            for index in indices:
                index = position(index, len(self))
                stream = self._draws.stream(index, everywhere=self.then is not None)
                items.append(_Item(index, [self._read, *steps, self._last], stream))
                items[-1].go_on()
            while pauses := [item.pause for item in items if item.pause is not None]:
                answer(pauses, MOST_AT_ONCE)
                for item in items:
                    item.go_on()
        return [item.sample for item in items]

    def _sample(self, index: int) -> Any:
        return self._last(self.transforms(self._read(index)))

    def _read(self, index: int) -> Any:
        """Return a sample of the dataset, in which transforms find the image."""
        sample = self.dataset[index]
        place = samples.image_place(sample, self.image_getter)
        image = images.mark_image(samples.get(sample, place))
        return samples.put(samples.arrays_as_tensors(sample), place, image)

    def _last(self, sample: Any) -> Any:
        """Do to the image alone what is done ``then``."""
        if self.then is None:
            return sample
        place = samples.image_place(sample, self.image_getter)
        try:
            image = self.then(samples.get(sample, place))
        except KeyError as error:
            if "named arguments" not in str(error):
                raise
            message = one_line(error).strip("'\"")
            raise TypeError(
                f"'then' must take the image alone ({message}); {_ALBUMENTATIONS}."
            ) from error
        if image is None or isinstance(image, Mapping):
            hint = f"; for albumentations, {_ALBUMENTATIONS}" if image is not None else ""
            raise TypeError(f"'then' must return an image, got {type(image).__name__}{hint}.")
        return samples.put(sample, place, image)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins, in every worker; each epoch draws other numbers.

        Args:
            epoch: at least 0.
        """
        epoch = whole("epoch", epoch, 0)
        pass_epoch(self.dataset, epoch)
        self._draws.set_epoch(epoch, len(self))

    @property
    def seed(self) -> int | None:
        """The seed, or None where each worker draws from its own random state."""
        return self._draws.seed

    @property
    def enabled(self) -> bool:
        """Whether diffaug's transforms change images; if not, these pass as if ``p`` were 0.

        It reaches workers that live on (``persistent_workers=True``). Attributes of a transform,
        such as ``mix.p``, do not: each worker has a copy of its own.
        """
        return bool(self._enabled)

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled.fill_(bool(enabled))

    @property
    def transform(self) -> Callable[[Any], Any] | None:
        """What is done to the image alone: ``then``. timm's ``create_loader`` sets it."""
        return self.then

    @transform.setter
    def transform(self, transform: Callable[[Any], Any] | None) -> None:
        if transform is not None and not callable(transform):
            raise TypeError(f"'transform' must be callable, got {type(transform).__name__}.")
        if self._then_is_given and transform is not None:
            raise ValueError(
                "'transform' must not be set where 'then' was given, for it would replace it; "
                "leave out one of them."
            )
        self.then = transform

    @property
    def classes(self) -> Any:
        """The names of the classes, where the dataset has them."""
        return self.dataset.classes

    @property
    def class_to_idx(self) -> Any:
        """The number of each class, where the dataset has it."""
        return self.dataset.class_to_idx

    @property
    def targets(self) -> Any:
        """The class of each item, where the dataset has them; before its ``target_transform``."""
        return self.dataset.targets

    @property
    def target_transform(self) -> Any:
        """What the dataset does to its labels, where it has that."""
        return self.dataset.target_transform


class _Item:
    """One item of a batch, on its way through the steps until one of these needs images.

    That step is called again, with the same draws, when the images are there.
    """

    def __init__(self, index: int, steps: list[Callable[[Any], Any]], stream: Stream) -> None:
        self.sample: Any = index
        self.pause: Pause | None = None
        self._steps, self._stream = steps, stream
        self._before: Any = None

    def go_on(self) -> None:
        """Go through the steps, to the end or to a pause."""
        if not self._steps:
            return
        with self._stream.going_on():
            if self.pause is not None:
                self._stream.go_back(self._before)
            while self._steps:
                step = self._steps[0]
                if _generates(step) and self.pause is None:
                    self.pause, self._before = Pause(), self._stream.place()
                try:
                    with pausing(self.pause):
                        sample = step(self.sample)
                except PausedError:
                    return
                self.sample, self.pause = sample, None
                del self._steps[0]


def _generates(step: Any) -> bool:
    return isinstance(step, ImageTransform) and step.backend is not None


def _steps_of(transforms: Any) -> list[Any]:
    """Return the steps of torchvision's ``Compose``, or the one callable."""
    if type(transforms) not in (v1.Compose, v2.Compose):
        return [transforms]
    return [step for inner in transforms.transforms for step in _steps_of(inner)]
