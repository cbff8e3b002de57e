"""Image files in, bytes of one shape out: 8 bits a channel, grey or in colour, upright."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.utils.data import get_worker_info

from secateur.errors import DataError
from secateur.run import Progress, Silent

Array = NDArray[Any]
# Pillow's modes without colour; 16 bits have become 8 by then
GREY = ("1", "L", "LA", "La")


def channels_of(held: Any, row: int, part: str) -> int:
    """1 for a grey image, 3 for one in colour.

    Args:
        held: As ``datasets`` holds an image that it does not decode: its bytes, or the path of a file.
        row: Its number, for messages.
        part: The split, for messages.

    Returns:
        The number of channels.

    Raises:
        DataError: It is no image.
    """
    with _reading(held, row, part):
        image = _open(held)
    return 1 if image.mode in GREY else 3


class Pictures:
    """Images as an array [n, channels, h, w] of bytes that nothing holds: decoded when they are asked for.

    Args:
        raw: [n], one column of images as ``datasets`` holds them undecoded; read in slices.
        rows: [n], their numbers, for messages.
        part: The split, for messages.
        channels: 1 or 3.
        exact: Refuse an image in colour where one channel is asked for.
        size: Side in pixels that images are brought to (short side resized, centre cropped); None: all must
            be of one size already.

    Attributes:
        shape: As the first image has it.
        dtype: Of bytes.

    Raises:
        DataError: The first row is no image.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        raw: Any,
        rows: Sequence[int] | Array,
        part: str,
        *,
        channels: int,
        exact: bool,
        size: int | None,
    ) -> None:
        self._raw, self._rows, self._part = raw, rows, part
        self._channels, self._exact, self._size = channels, exact, size
        (self._column,) = raw.column_names
        self.shape = (len(raw), *self._decode(0, raw[:1][self._column][0]).shape)

    def __getitem__(self, at: slice | Array) -> Array:
        """The images at these positions, decoded by threads; by one in a process that others read beside.

        Args:
            at: Positions, or a slice.

        Returns:
            [b, channels, h, w], uint8.

        Raises:
            DataError: A row is no image, or of another size or kind than the first.
        """
        numbers = range(*at.indices(len(self._raw))) if isinstance(at, slice) else at.tolist()
        held = self._raw[at if isinstance(at, slice) else numbers][self._column]
        found = np.empty((len(held), *self.shape[1:]), dtype=np.uint8)

        def place(item: tuple[int, int, Any]) -> None:
            to, number, image = item
            got = self._decode(number, image)
            if got.shape != self.shape[1:]:
                raise DataError(
                    f'expected images of one size in the split "{self._part}", got {_side(self.shape[1:])} '
                    f"in row {self._rows[0]} and {_side(got.shape)} in row {self._rows[number]}: bring them "
                    'to one, as data.size of use = "images" does'
                )
            found[to] = got

        with ThreadPoolExecutor(None if get_worker_info() is None else 1) as pool:
            list(pool.map(place, zip(range(len(held)), numbers, held, strict=True)))
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All images, decoded."""
        return np.asarray(self.decoded(Silent()), dtype=dtype)

    def decoded(self, progress: Progress) -> Array:
        """All images.

        Args:
            progress: Where to show how far decoding has come.

        Returns:
            [n, channels, h, w], uint8.

        Raises:
            DataError: A row is no image, or of another size or kind than the first.
        """
        found = np.empty(self.shape, dtype=np.uint8)
        with progress.bar(f"decoding {self._part}", len(found)) as advance:
            for start in range(0, len(found), 1024):
                some = self[start : start + 1024]
                found[start : start + 1024] = some
                advance(len(some))
        return found

    def _decode(self, number: int, held: Any) -> Array:
        with _reading(held, self._rows[number], self._part):
            image = _open(held)
            if self._exact and self._channels == 1 and image.mode not in GREY:
                raise DataError(
                    f"expected grey images, as the first of the training rows is, got one in colour in row "
                    f'{self._rows[number]} of the split "{self._part}": bring all to grey, or all to colour'
                )
            fitted = np.asarray(_fitted(image, "L" if self._channels == 1 else "RGB", self._size))
        return fitted[None] if self._channels == 1 else fitted.transpose(2, 0, 1)


def _side(shape: Sequence[int]) -> str:
    return f"{shape[2]} x {shape[1]}"


@contextlib.contextmanager
def _reading(held: Any, row: int, part: str) -> Iterator[None]:
    """What a decoder raises becomes a sentence that names the row, and the file where it is one."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a decoder for each format, and each raises what it likes
        file = f' ("{held["path"]}")' if held and held["bytes"] is None and held["path"] else ""
        words = re.sub(r" <.* at 0x\w+>", "", next(iter(str(error).splitlines()), ""))
        raise DataError(
            f'expected an image in row {row} of the split "{part}"{file}, got something unreadable '
            f"({type(error).__name__}: {words}): mend the row, or take it out"
        ) from error


def _open(held: Any) -> Image.Image:
    """An image of 8 bits a channel, upright."""
    image: Image.Image = Image.open(io.BytesIO(held["bytes"]) if held["bytes"] is not None else held["path"])
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow would cut off what is above 255, and leave white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"which of the 32 bits of Pillow's mode {image.mode} count cannot be told")
    with contextlib.suppress(Exception):  # odd EXIF data do not make an image unreadable
        image = ImageOps.exif_transpose(image)
    return image


def _fitted(image: Image.Image, mode: str, size: int | None) -> Image.Image:
    """In colour or grey, and of the size asked for: short side resized, centre cropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # on the straight way Pillow warns
    image = image.convert(mode)
    if size is None or image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
