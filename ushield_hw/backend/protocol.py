"""The protocol between the main process and a worker: length-prefixed messages that carry only the data of ``model``.

Not pickle: a vendor module runs in the worker, and its messages must not be able to execute code in the main process.
"""

from __future__ import annotations

import dataclasses
import json
import select
import socket
import struct
import time
from base64 import b64decode, b64encode
from enum import Enum
from typing import Any, Final

from ushield_hw.backend import model
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import PublicKey

LONGEST_FRAME: Final = 64 << 20  # enough for thousands of certificates in base64
NUMBER: Final = struct.Struct(">H")  # index of a new channel's flags
MOST_CHANNELS: Final = 1 << 16
# The shared memory: one byte for each channel, set by the worker (state); then one for each, set by the main process
# (stop request).
STOP: Final = MOST_CHANNELS
SHARED: Final = 2 * MOST_CHANNELS
BEGAN, NO_DESCRIPTOR = 1, 2
_ONE_READ: Final = 1 << 14
_HEAD: Final = struct.Struct(">IB")  # length of the body, its kind
_JSON, _SIGN, _BYTES = range(3)
_SIGN_HEAD: Final = struct.Struct(">QQ?HHh")  # login, key, context login; lengths of mechanism, digest, PIN (-1: none)

_CLASSES: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (
        model.CertificateRecord,
        model.Contents,
        model.KeyRecord,
        model.ModuleInfo,
        model.ModuleOptions,
        model.ObjectProblem,
        PublicKey,
        model.SignCall,
        model.SlotInfo,
        model.TokenInfo,
    )
}
_ENUMS: Final[dict[str, type[Enum]]] = {kind.__name__: kind for kind in (model.ObjectClass, model.User, KeyKind)}


class Closed(Exception):
    """The peer closed the connection or sent an invalid message."""


class TimedOut(Exception):
    """No complete message arrived before the timeout."""


class Channel:
    """One end of a stream socket with request-response messages.

    Args:
        end: a connected stream socket; this object takes ownership of it.
    """

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(None)  # the kernel keeps the timeout, see _limit: half the system calls of a Python timeout
        self._end = end
        self._limit_s: float | None = None

    def send(self, message: object) -> None:
        """Send one message.

        Raises:
            Closed: the peer closed the connection, or the message is too long.
        """
        kind, body = _encoded(message)
        if len(body) > LONGEST_FRAME:
            raise Closed("message too long")
        try:
            self._end.sendall(_HEAD.pack(len(body), kind) + body)
        except OSError as error:
            raise Closed(str(error)) from error

    def receive(self, limit_s: float | None = None) -> Any:
        """Return the next message.

        Args:
            limit_s: timeout for the complete message in seconds; None: no timeout.

        Raises:
            Closed: the peer closed the connection or sent an invalid message.
            TimedOut: no complete message arrived before the timeout.
        """
        frame, until = bytearray(), None if limit_s is None else time.monotonic() + limit_s
        wanted = _HEAD.size
        while len(frame) < wanted:
            self._limit(limit_s)
            frame += self._part()
            if len(frame) >= _HEAD.size:
                length, kind = _HEAD.unpack_from(frame)
                if length > LONGEST_FRAME:
                    raise Closed("message too long")
                wanted = _HEAD.size + length
            if until is not None and len(frame) < wanted:
                limit_s = until - time.monotonic()
        if len(frame) != wanted:
            raise Closed("not one message")
        try:
            return _decoded(kind, bytes(frame[_HEAD.size :]))
        except (ValueError, TypeError, LookupError, RecursionError, struct.error) as error:
            raise Closed("not a message") from error

    def readable(self, wait_s: float) -> bool:
        """Return whether data or the end of the stream has arrived.

        Args:
            wait_s: how long to wait for it, in seconds.

        Raises:
            Closed: the channel is closed.
        """
        watch = select.poll()
        try:
            watch.register(self._end, select.POLLIN)
        except ValueError as error:  # closed by another thread
            raise Closed("closed") from error
        return bool(watch.poll(wait_s * 1000))

    def close(self) -> None:
        """Close the socket."""
        self._end.close()

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._end.fileno()

    def _part(self) -> bytes:
        try:
            part = self._end.recv(_ONE_READ)
        except BlockingIOError as error:
            raise TimedOut from error
        except OSError as error:
            raise Closed(str(error)) from error
        if not part:
            raise Closed("end of stream")
        return part

    def _limit(self, limit_s: float | None) -> None:
        """Set the kernel's receive timeout (SO_RCVTIMEO), if it has changed."""
        if limit_s is not None and limit_s <= 0:
            raise TimedOut
        if limit_s != self._limit_s:
            seconds, part = divmod(limit_s or 0.0, 1)  # 0: no timeout
            wait = struct.pack("@ll", int(seconds), max(int(part * 1e6), 0 if limit_s is None or seconds else 1))
            self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
            self._limit_s = limit_s


def _encoded(message: object) -> tuple[int, bytes]:
    """Return a message's kind and body. Signatures have a binary form, which is faster."""
    match message:
        case ("sign", (int() as login_id, model.SignCall() as call)):
            return _SIGN, _sign_body(login_id, call)
        case {"ok": bytes() as data}:
            return _BYTES, data
    return _JSON, json.dumps(_pack(message), separators=(",", ":")).encode()


def _decoded(kind: int, body: bytes) -> Any:
    if kind == _BYTES:
        return {"ok": body}
    if kind == _SIGN:
        return "sign", _sign_call(body)
    if kind != _JSON:
        raise ValueError(kind)
    return _unpack(json.loads(body))


def _sign_body(login_id: int, call: model.SignCall) -> bytes:
    mechanism, digest = call.mechanism.encode(), (call.digest or "").encode()
    pin = b"" if call.pin is None else call.pin.encode()
    lengths = len(mechanism), len(digest), -1 if call.pin is None else len(pin)
    return _SIGN_HEAD.pack(login_id, call.handle, call.context, *lengths) + mechanism + digest + pin + call.data


def _sign_call(body: bytes) -> tuple[int, model.SignCall]:
    login_id, handle, context, *lengths = _SIGN_HEAD.unpack_from(body)
    parts, at = [], _SIGN_HEAD.size
    for length in lengths:
        parts.append(body[at : at + max(length, 0)].decode())
        at += max(length, 0)
    mechanism, digest, pin = parts
    if at > len(body):
        raise ValueError("cut off")
    secret = None if lengths[2] < 0 else pin
    return login_id, model.SignCall(handle, mechanism, body[at:], digest or None, context, secret)


def _pack(value: object) -> object:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, bytes):
        return {"b": b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        return [_pack(item) for item in value]
    if isinstance(value, Enum):
        return {"e": type(value).__name__, "v": value.value}
    if isinstance(value, dict):
        return {"d": {key: _pack(item) for key, item in value.items()}}
    if dataclasses.is_dataclass(value):
        fields = [_pack(getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {"c": type(value).__name__, "v": fields}
    raise TypeError(f"{type(value).__name__} does not travel")


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "b" in value:
        return b64decode(value["b"], validate=True)
    if "e" in value:
        return _ENUMS[value["e"]](value["v"])
    if "d" in value:
        return {str(key): _unpack(item) for key, item in value["d"].items()}
    return _CLASSES[value["c"]](*(_unpack(item) for item in value["v"]))
