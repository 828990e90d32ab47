"""How a worker and its owner talk: length-prefixed JSON that can only build the plain data of ``model``.

Never pickle: a vendor's module runs in the worker, and what comes from there must not be able to run anything here.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import time
from base64 import b64decode, b64encode
from enum import Enum
from typing import Any, Final

from ushield_hw.cryptoki import model
from ushield_hw.suites import KeyKind

LONGEST_FRAME: Final = 8 << 20
_LENGTH: Final = struct.Struct(">I")

_CLASSES: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (
        model.CertificateRecord,
        model.KeyRecord,
        model.ModuleInfo,
        model.ModuleOptions,
        model.PublicKey,
        model.SignCall,
        model.SlotInfo,
        model.TokenInfo,
    )
}
_ENUMS: Final[dict[str, type[Enum]]] = {kind.__name__: kind for kind in (model.User, KeyKind)}


class Closed(Exception):
    """The other side is gone, or what it sent is no message."""


class TimedOut(Exception):
    """No whole message came before the deadline."""


def send(channel: socket.socket, message: object) -> None:
    """Send one message.

    Raises:
        Closed: the other side is gone.
    """
    body = json.dumps(_pack(message), separators=(",", ":")).encode()
    if len(body) > LONGEST_FRAME:
        raise Closed("message too long")
    try:
        channel.settimeout(None)
        channel.sendall(_LENGTH.pack(len(body)) + body)
    except OSError as error:
        raise Closed(str(error)) from error


def receive(channel: socket.socket, deadline: float | None = None) -> Any:
    """Return the next message.

    Args:
        channel: a stream socket.
        deadline: on the ``time.monotonic`` clock; None waits for ever.

    Raises:
        Closed: the other side is gone, or sent something that is no message of ours.
        TimedOut: the deadline passed.
    """
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size, deadline))
    if length > LONGEST_FRAME:
        raise Closed("message too long")
    body = _exactly(channel, length, deadline)
    try:
        return _unpack(json.loads(body))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise Closed("not a message") from error


def _exactly(channel: socket.socket, count: int, deadline: float | None) -> bytes:
    data = b""
    while len(data) < count:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut
        try:
            channel.settimeout(left)
            part = channel.recv(count - len(data))
        except TimeoutError as error:
            raise TimedOut from error
        except OSError as error:
            raise Closed(str(error)) from error
        if not part:
            raise Closed("end of stream")
        data += part
    return data


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
