"""DER as a mutable tree: elements are duplicated, dropped, swapped, resized, retagged, and given wrong lengths.

Unlike :mod:`ushield_hw.crypto.der` this parses and writes invalid encodings too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Final

OCTET_STRING: Final = 0x04
CONSTRUCTED: Final = 0x20
INDEFINITE: Final = -1

_LONG_FORM: Final = 0x80
_DEEPEST: Final = 40
_TAGS: Final = (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x17, 0x18, 0x30, 0x31, 0x80, 0xA0, 0xA1, 0xA3, 0x24)


@dataclass
class Node:
    """One element.

    Attributes:
        tag: its tag, one byte.
        content: its content, if it is primitive.
        children: its child elements, or None.
        zeros: the number of superfluous bytes in its length; ``INDEFINITE``: indefinite length.
        lie: added to its length.
    """

    tag: int
    content: bytes = b""
    children: list[Node] | None = None
    zeros: int = 0
    lie: int = 0

    def written(self) -> bytes:
        """Return its encoding."""
        body = self.content if self.children is None else b"".join(child.written() for child in self.children)
        if self.zeros == INDEFINITE:
            return bytes((self.tag, _LONG_FORM)) + body + b"\0\0"
        size = max(0, len(body) + self.lie)
        octets = size.to_bytes((size.bit_length() + 7) // 8 or 1, "big")
        if size < _LONG_FORM and not self.zeros:
            return bytes((self.tag, size)) + body
        octets = bytes(self.zeros) + octets
        return bytes((self.tag, _LONG_FORM | len(octets))) + octets + body

    def set(self, content: bytes) -> None:
        """Set its content."""
        self.content, self.children = content, None

    def walk(self) -> Iterator[Node]:
        """Yield it and all its descendants."""
        yield self
        for child in self.children or ():
            yield from child.walk()

    def child(self, *steps: int) -> Node:
        """Return the descendant at these positions; raise IndexError if there is none."""
        node = self
        for step in steps:
            node = (node.children or [])[step]
        return node


def read(data: bytes) -> Node | None:
    """Return the tree of the single element that fills ``data``, or None."""
    found = _elements(data, 0)
    return found[0] if found is not None and len(found) == 1 else None


def _elements(data: bytes, depth: int) -> list[Node] | None:
    found, at = [], 0
    while at < len(data):
        head = _head(data, at)
        if head is None or depth > _DEEPEST:
            return None
        start, stop = head
        found.append(_node(data[at], data[start:stop], depth))
        at = stop
    return found


def _node(tag: int, content: bytes, depth: int) -> Node:
    holds = tag & CONSTRUCTED or (tag == OCTET_STRING and content[:1] == b"\x30")  # extensions, ECDSA signatures
    children = _elements(content, depth + 1) if holds else None
    return Node(tag, content, children)


def _head(data: bytes, at: int) -> tuple[int, int] | None:
    if at + 2 > len(data):
        return None
    size, start = data[at + 1], at + 2
    if size > _LONG_FORM:
        count = size - _LONG_FORM
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
    return (start, start + size) if start + size <= len(data) and data[at + 1] != _LONG_FORM else None


@dataclass(frozen=True)
class Bender:
    """Applies random mutations to trees.

    Attributes:
        random: the random number generator.
        words: elements to insert: object identifiers, integers and times that the parser knows.
        donors: trees to copy elements from.
    """

    random: Random
    words: Sequence[bytes]
    donors: Sequence[Node] = field(default=())

    def bend(self, root: Node) -> None:
        """Apply one mutation."""
        nodes = list(root.walk())
        parents = [node for node in nodes if node.children]
        way = self.random.choice(_WAYS)
        way(self, self.random.choice(parents or nodes), self.random.choice(nodes))

    def double(self, parent: Node, _: Node) -> None:
        """Duplicate an element, adjacent to it or elsewhere."""
        if parent.children:
            one = self.random.choice(parent.children)
            parent.children.insert(self.random.randint(0, len(parent.children)), deepcopy(one))

    def drop(self, parent: Node, _: Node) -> None:
        """Drop an element."""
        if parent.children:
            parent.children.pop(self.random.randrange(len(parent.children)))

    def swap(self, parent: Node, _: Node) -> None:
        """Swap two elements."""
        if parent.children:
            a, b = (self.random.randrange(len(parent.children)) for _ in range(2))
            parent.children[a], parent.children[b] = parent.children[b], parent.children[a]

    def put_in(self, parent: Node, _: Node) -> None:
        """Insert a word."""
        if parent.children is not None:
            word = read(self.random.choice(self.words))
            parent.children.insert(self.random.randint(0, len(parent.children)), word or Node(0x05))

    def graft(self, parent: Node, _: Node) -> None:
        """Copy an element from another tree."""
        if parent.children and self.donors:
            donor = self.random.choice(list(self.random.choice(self.donors).walk()))
            parent.children[self.random.randrange(len(parent.children))] = deepcopy(donor)

    def replace(self, _: Node, node: Node) -> None:
        """Replace its content with that of a word."""
        word = read(self.random.choice(self.words))
        if word is not None:
            node.tag = word.tag
            node.set(word.content)

    def rename(self, _: Node, node: Node) -> None:
        """Change its tag."""
        node.tag = self.random.choice((*_TAGS, node.tag ^ CONSTRUCTED, self.random.randrange(256)))

    def resize(self, _: Node, node: Node) -> None:
        """Remove bytes and insert others."""
        content = node.content if node.children is None else b"".join(one.written() for one in node.children)
        at, gone = self.random.randint(0, len(content)), self.random.choice((0, 0, 1, 1, 2, 40))
        come = self.random.randbytes(self.random.choice((0, 0, 1, 1, 2, 40)))
        node.set(content[:at] + come + content[at + gone :])

    def flip(self, _: Node, node: Node) -> None:
        """Flip one bit."""
        if node.children is None and node.content:
            changed = bytearray(node.content)
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
            node.set(bytes(changed))

    def wrap(self, _: Node, node: Node) -> None:
        """Wrap it in another element."""
        inner = Node(node.tag, node.content, node.children, node.zeros, node.lie)
        node.tag, node.children, node.zeros, node.lie = self.random.choice((0x30, 0x31, 0xA0, 0x04)), [inner], 0, 0

    def unwrap(self, _: Node, node: Node) -> None:
        """Replace it with its content."""
        if node.children:
            only = node.children[0]
            node.tag, node.content, node.children = only.tag, only.content, only.children

    def misstate(self, _: Node, node: Node) -> None:
        """Encode its length wrongly or not in DER."""
        if self.random.random() < 0.5:
            node.lie = self.random.choice((-1, 1, 2, -5, 0x7F, 0xFFFF, 1 << 40))
        else:
            node.zeros = self.random.choice((INDEFINITE, 1, 2, 9))


_WAYS: Final[tuple[Callable[[Bender, Node, Node], None], ...]] = (
    Bender.double,
    Bender.drop,
    Bender.swap,
    Bender.put_in,
    Bender.graft,
    Bender.replace,
    Bender.rename,
    Bender.resize,
    Bender.flip,
    Bender.wrap,
    Bender.unwrap,
    Bender.misstate,
)
