"""Messages between a model's process and its callers: JSON and raw pixels, never pickle."""

import hmac
import json
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import Any

import torch

from diffaug.backends.request import GenerationRequest
from diffaug.untrusted import parse_json

_SIZES = struct.Struct("!4sIQ")  # a mark, the bytes of the header, the bytes of the pixels
_MARK = b"dfa1"
MAX_HEADER = 1 << 24
MAX_BODY = 1 << 32
#: Until the caller has proved that it knows the key, it may send no more.
MAX_UNPROVED = 1 << 12

Header = dict[str, Any]


class WireError(ConnectionError):
    """The other side closed the connection, or sent something else than expected."""


def send(sock: socket.socket, header: Header, images: Sequence[torch.Tensor] = ()) -> None:
    """Send a header and uint8 images."""
    shapes = [list(image.shape) for image in images]
    text = json.dumps({**header, "shapes": shapes}).encode()
    # Sent from the memory of each image, so that a batch of large images is not copied first.
    pixels = [_bytes_of(image.contiguous().cpu()) for image in images if image.numel()]
    body_bytes = sum(map(len, pixels))
    if len(text) > MAX_HEADER or body_bytes > MAX_BODY:
        raise ValueError(
            f"'requests' must take at most {MAX_BODY:,} bytes together, got {body_bytes:,} of "
            f"pixels and {len(text):,} of text; ask for fewer at once."
        )
    try:
        sock.sendall(_SIZES.pack(_MARK, len(text), body_bytes) + text)
        for part in pixels:
            sock.sendall(part)
    except OSError as error:
        raise WireError(f"the connection broke while sending: {error}") from error


def receive(sock: socket.socket, *, most: int | None = None) -> tuple[Header, list[torch.Tensor]]:
    """Receive what ``send`` sent; ``most`` bytes of text and no image, if that is given.

    Raises:
        WireError: the connection ended, or something else was received.
    """
    mark, header_bytes, body_bytes = _SIZES.unpack(_read(sock, _SIZES.size))
    text, pixels = (MAX_HEADER, MAX_BODY) if most is None else (most, 0)
    if mark != _MARK or header_bytes > text or body_bytes > pixels:
        raise WireError("the other side sent no message of diffaug's.")
    try:
        header = parse_json(_read(sock, header_bytes))
        shapes = [tuple(map(int, shape)) for shape in header.pop("shapes")]
        sizes = [int(torch.Size(shape).numel()) for shape in shapes]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WireError(f"the other side sent a header that cannot be read: {error}") from error
    if sum(sizes) != body_bytes or any(side < 0 for shape in shapes for side in shape):
        raise WireError("the other side sent pixels that do not fit their header.")
    images = [torch.empty(shape, dtype=torch.uint8) for shape in shapes]
    for image in images:
        if image.numel():
            _fill(sock, _bytes_of(image))
    return header, images


def _bytes_of(image: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous image on the CPU."""
    return image.numpy().data.cast("B")


def _read(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    _fill(sock, memoryview(data))
    return data


def _fill(sock: socket.socket, view: memoryview) -> None:
    while view:
        try:
            count = sock.recv_into(view)
        except OSError as error:
            raise WireError(f"the connection broke while receiving: {error}") from error
        if not count:
            raise WireError("the other side closed the connection.")
        view = view[count:]


def pack_requests(requests: Sequence[GenerationRequest]) -> tuple[Header, list[torch.Tensor]]:
    """Turn requests into a header and images."""
    fields = ("prompt", "seed", "negative_prompt", "strength")
    plain = [
        {**{name: getattr(request, name) for name in fields}, "image": request.image is not None}
        for request in requests
    ]
    return {"requests": plain}, [r.image for r in requests if r.image is not None]


def unpack_requests(header: Header, images: list[torch.Tensor]) -> list[GenerationRequest]:
    """Turn a header and images into requests, whose fields are checked."""
    remaining = iter(images)
    return [
        GenerationRequest(**{**fields, "image": next(remaining) if fields["image"] else None})
        for fields in header["requests"]
    ]


def challenge(sock: socket.socket, key: bytes) -> bool:
    """Ask the caller to prove that it knows the key; return whether it did."""
    nonce = secrets.token_hex(32)
    send(sock, {"nonce": nonce})
    answer, _ = receive(sock, most=MAX_UNPROVED)
    if not hmac.compare_digest(str(answer.get("proof")), _proof(key, nonce)):
        return False
    send(sock, {"welcome": True})
    return True


def prove(sock: socket.socket, key: bytes) -> None:
    """Answer a challenge.

    Raises:
        WireError: the key is wrong, or the other side closed the connection.
    """
    header, _ = receive(sock, most=MAX_UNPROVED)
    send(sock, {"proof": _proof(key, str(header.get("nonce")))})
    receive(sock, most=MAX_UNPROVED)


def _proof(key: bytes, nonce: str) -> str:
    return hmac.new(key, nonce.encode(), "sha256").hexdigest()
