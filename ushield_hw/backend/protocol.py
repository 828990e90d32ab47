"""How a worker and its owner talk: length-prefixed messages that can only build the plain data of ``model``.

Never pickle: a vendor's module runs in the worker, and what comes from there must not be able to run anything here.
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

LONGEST_FRAME: Final = 64 << 20  # thousands of certificates, as text
NUMBER: Final = struct.Struct(">H")  # which mark a new channel has
MOST_CHANNELS: Final = 1 << 16
# The file that both sides map: for each channel what the worker has begun, then what the owner wants to be stopped.
STOP: Final = MOST_CHANNELS
SHARED: Final = 2 * MOST_CHANNELS
BEGAN, NO_ROOM = 1, 2
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
        model.PublicKey,
        model.SignCall,
        model.SlotInfo,
        model.TokenInfo,
    )
}
_ENUMS: Final[dict[str, type[Enum]]] = {kind.__name__: kind for kind in (model.ObjectClass, model.User, KeyKind)}


class Closed(Exception):
    """The other side is gone, or what it sent is no message."""


class TimedOut(Exception):
    """No whole message came before the deadline."""


class Channel:
    """One end of a stream socket, on which each side sends a whole message and then waits for the other's.

    Args:
        end: a connected stream socket; it is this object's from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(None)  # deadlines are the kernel's, see _limit: half the system calls of a Python timeout
        self._end = end
        self._limit_s: float | None = None

    def send(self, message: object) -> None:
        """Send one message.

        Raises:
            Closed: the other side is gone.
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
            limit_s: how long to wait for all of it; None waits for ever.

        Raises:
            Closed: the other side is gone, or sent something that is no message of ours.
            TimedOut: no whole message came in time.
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
        """Tell whether something has come, or the other side has closed, after waiting for that at most so long."""
        watch = select.poll()
        try:
            watch.register(self._end, select.POLLIN)
        except ValueError as error:  # closed by another thread
            raise Closed("closed") from error
        return bool(watch.poll(wait_s * 1000))

    def close(self) -> None:
        """Let the socket go."""
        self._end.close()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
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
        """Have the kernel end a read after so long (SO_RCVTIMEO); told only when it changes."""
        if limit_s is not None and limit_s <= 0:
            raise TimedOut
        if limit_s != self._limit_s:
            seconds, part = divmod(limit_s or 0.0, 1)  # 0 is for ever
            wait = struct.pack("@ll", int(seconds), max(int(part * 1e6), 0 if limit_s is None or seconds else 1))
            self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
            self._limit_s = limit_s


def _encoded(message: object) -> tuple[int, bytes]:
    """Return a message's kind and body. Signatures go as they are: for them the time counts."""
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
