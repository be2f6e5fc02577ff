"""A line in a picture's XMP that says what restored it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final
from xml.parsers import expat

from unjpeg.metadata import Metadata
from unjpeg.version import __version__

__all__ = ["add_tag"]

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_HISTORY: Final = "http://ns.adobe.com/xap/1.0/mm/"
_EVENT: Final = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
_PACKET: Final = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)
_TAG: Final = re.compile(rb"<([^\s/>]+)")
_PADDING: Final = re.compile(rb"\s+(?=<\?xpacket end)")


def add_tag(metadata: Metadata, words: str) -> Metadata:
    """The same with one more event in the XMP's history: "restored by unjpeg", its version, and these words.

    All other bytes of a packet stay as they are, but for padding at its end, which gives the room. The event has no
    time: equal inputs give equal files.

    Raises:
        ValueError: the packet is damaged, or of a kind that nothing can be added to.
    """
    from xml.sax.saxutils import escape, quoteattr  # brings urllib and ssl, which every start would wait for

    event = (
        f'<rdf:li xmlns:rdf="{_RDF}" xmlns:stEvt="{_EVENT}" rdf:parseType="Resource">'
        f"<stEvt:action>edited</stEvt:action><stEvt:softwareAgent>unjpeg {__version__}</stEvt:softwareAgent>"
        f"<stEvt:parameters>{escape(f'restored by unjpeg: {words}')}</stEvt:parameters></rdf:li>"
    )
    packet = metadata.xmp or _PACKET
    if metadata.extended_xmp and _Places(metadata.extended_xmp).history is not None:
        raise ValueError("its history lies in the extended part")  # a second one would contradict it
    places = _Places(packet)
    if places.history is not None:
        return replace(metadata, xmp=_insert(packet, places.history, event.encode()))
    if places.has_history or places.description is None:
        raise ValueError("it holds no list where one must be")
    description = (
        f'<rdf:Description xmlns:rdf="{_RDF}" xmlns:xmpMM="{_HISTORY}" rdf:about={quoteattr(places.about)}>'
        f"<xmpMM:History><rdf:Seq>{event}</rdf:Seq></xmpMM:History></rdf:Description>"
    )
    return replace(metadata, xmp=_insert(packet, places.description, description.encode()))


class _Places:
    """Where something can be added to a packet: byte offsets of end tags, or of elements that are one tag.

    Attributes:
        history: of the list of events; None if there is none.
        has_history: whether there is a property of that name, list or not.
        description: of the element that holds all descriptions; None if there is none.
        about: what the packet says that it is about.

    Raises:
        ValueError: it is no packet that can be read.
    """

    def __init__(self, packet: bytes) -> None:
        self.history: int | None = None
        self.description: int | None = None
        self.has_history, self.about = False, ""
        self._packet = packet
        self._above: list[tuple[str, int]] = []  # names, and where their tags begin
        self._parser = parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        parser.StartDoctypeDeclHandler = self._refuse  # not allowed in XMP, and could make a parser work without end
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        try:
            parser.Parse(packet.rstrip(b"\0"), True)
        except expat.ExpatError as error:
            raise ValueError("it is damaged") from error

    def _refuse(self, *_: object) -> None:
        raise ValueError("it holds declarations")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == f"{_RDF} Description" and self._parent() == f"{_RDF} RDF":
            self.about = self.about or attributes.get(f"{_RDF} about", "")
        self._above.append((name, self._parser.CurrentByteIndex))

    def _parent(self) -> str | None:
        return self._above[-1][0] if self._above else None

    def _end(self, name: str) -> None:
        _, start = self._above.pop()
        place = self._parser.CurrentByteIndex
        if not self._packet.startswith(b"</" + _tag_name(self._packet, start), place):
            place = start  # one tag, behind which the parser is by now
        if name == f"{_HISTORY} History":
            self.has_history = True
        elif name == f"{_RDF} Seq" and self._parent() == f"{_HISTORY} History" and self.history is None:
            self.history = place
        elif name == f"{_RDF} RDF":
            self.description = place


def _tag_name(packet: bytes, start: int) -> bytes:
    """Of the tag that begins there, as the packet spells it."""
    found = _TAG.match(packet, start)
    assert found is not None  # the parser has been there
    return found[1]


def _insert(packet: bytes, place: int, more: bytes) -> bytes:
    """Before the end tag there, or into the element there that is one tag; out of the padding, if there is enough."""
    if packet.startswith(b"</", place):
        before, after = packet[:place], packet[place:]
    else:
        end = packet.index(b"/>", place)
        before, after = packet[:end] + b">", b"</" + _tag_name(packet, place) + b">" + packet[end + 2 :]
    padding = _PADDING.search(after)
    if padding is not None and len(padding[0]) > len(more):
        grown = len(before) + len(more) + len(after) - len(packet)
        after = after[: padding.start() + 1] + after[padding.start() + 1 + grown :]
    return before + more + after
