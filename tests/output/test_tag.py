"""The line in the XMP: readable by a parser, and no other byte moved."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jpegs import encoded, picture
from unjpeg.metadata import Metadata
from unjpeg.output import FORMATS
from unjpeg.output.tag import add_tag
from unjpeg.picture import read_picture
from unjpeg.restorer import Options, Restorer
from unjpeg.settings import Settings
from unjpeg.version import __version__

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
HISTORY = "{http://ns.adobe.com/xap/1.0/mm/}History"
EVENT = "{http://ns.adobe.com/xap/1.0/sType/ResourceEvent#}"

NAMESPACES = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"'
PLAIN = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {NAMESPACES}>%s</rdf:RDF></x:xmpmeta>'
OTHER = '<rdf:Description rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="Grüße &amp; mehr"/>'
EARLIER = '<rdf:li rdf:parseType="Resource" xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#">\
<stEvt:action>saved</stEvt:action></rdf:li>'
WITH_HISTORY = '<rdf:Description rdf:about=""><xmpMM:History>%s</xmpMM:History></rdf:Description>'

PACKETS = {
    "nothing": PLAIN % "",
    "other properties": PLAIN % OTHER,
    "an empty element": f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {NAMESPACES} /></x:xmpmeta>',
    "other prefixes": '<a xmlns="adobe:ns:meta/"><RDF xmlns="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></RDF></a>',
    "a history": PLAIN % (OTHER + WITH_HISTORY % f"<rdf:Seq>{EARLIER}</rdf:Seq>"),
    "an empty history": PLAIN % (WITH_HISTORY % "<rdf:Seq/>"),
    "a packet": '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>' + PLAIN % OTHER + '<?xpacket end="r"?>',
    "a byte order mark": "\ufeff" + PLAIN % OTHER,
    "no frame": f"<rdf:RDF {NAMESPACES}>{OTHER}</rdf:RDF>",
}


def events(xmp: bytes) -> list[dict[str, str | None]]:
    histories = list(ElementTree.fromstring(xmp.rstrip(b"\0").decode().lstrip("\ufeff")).iter(HISTORY))
    assert len(histories) == 1
    (rdf,) = ElementTree.fromstring(xmp.decode().lstrip("\ufeff")).iter(f"{RDF}RDF")
    assert len(list(rdf.iter(HISTORY))) == 1
    (sequence,) = histories[0]
    assert sequence.tag == f"{RDF}Seq"
    return [{part.tag.removeprefix(EVENT): part.text for part in event} for event in sequence]


@pytest.mark.parametrize("kind", PACKETS)
def test_one_more_event_and_nothing_else(kind: str) -> None:
    packet = PACKETS[kind].encode()
    tagged = add_tag(Metadata(xmp=packet), "model x, strength 1 & <more>").xmp
    assert tagged is not None
    assert events(tagged)[-1] == {
        "action": "edited",
        "softwareAgent": f"unjpeg {__version__}",
        "parameters": "restored by unjpeg: model x, strength 1 & <more>",
    }
    assert [event["action"] for event in events(tagged)[:-1]] == ["saved"] * (kind == "a history")
    if "empty" not in kind:  # one piece put in, whatever was there in one piece before and behind it
        start = next(n for n in range(len(packet) + 1) if tagged[: n + 1] != packet[: n + 1] or n == len(packet))
        assert tagged.endswith(packet[start:])
    abouts = {node.get(f"{RDF}about") for node in ElementTree.fromstring(tagged.lstrip(b"\xef\xbb\xbf")).iter()} - {
        None
    }
    assert len(abouts - {""}) <= 1
    if kind == "other properties":
        assert abouts == {"uuid:1"}
    twice = add_tag(Metadata(xmp=tagged), "again").xmp
    assert twice is not None
    assert [event["parameters"] for event in events(twice)[-2:]][-1] == "restored by unjpeg: again"
    assert len(events(twice)) == len(events(tagged)) + 1


def test_without_xmp_there_is_a_packet_of_its_own() -> None:
    tagged = add_tag(Metadata(), "words").xmp
    assert tagged is not None
    assert len(events(tagged)) == 1
    assert tagged.startswith(b"<?xpacket begin=")


def test_padding_gives_the_room() -> None:
    packet = (PLAIN % OTHER).encode() + b"\n" + b" " * 3000 + b'\n<?xpacket end="w"?>'
    tagged = add_tag(Metadata(xmp=packet), "words").xmp
    assert tagged is not None
    assert len(tagged) == len(packet)
    assert len(events(tagged)) == 1
    tight = (PLAIN % OTHER).encode() + b'\n    <?xpacket end="w"?>'
    assert b'\n    <?xpacket end="w"?>' in (add_tag(Metadata(xmp=tight), "words").xmp or b"")


@pytest.mark.parametrize(
    "packet",
    [
        "no XML",
        "<a>",
        "<a/>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]>" + PLAIN % "",
        PLAIN % (WITH_HISTORY % ""),
        PLAIN
        % '<rdf:Description rdf:about="" xmpMM:History="odd"><xmpMM:History>text</xmpMM:History></rdf:Description>',
    ],
)
def test_what_nothing_can_be_added_to(packet: str) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        add_tag(Metadata(xmp=packet.encode()), "words")


@given(st.binary(max_size=60), st.integers(0, 400))
@settings(max_examples=80)
def test_damage_is_an_error_of_one_kind(damage: bytes, place: int) -> None:
    packet = PACKETS["a history"].encode()
    packet = packet[:place] + damage + packet[place + len(damage) :]
    try:
        tagged = add_tag(Metadata(xmp=packet), "words").xmp
    except ValueError:
        return
    assert tagged is not None
    assert len(tagged) > len(packet)


def test_a_history_in_the_extended_part_stays_alone() -> None:
    metadata = Metadata(xmp=PACKETS["nothing"].encode(), extended_xmp=PACKETS["a history"].encode())
    with pytest.raises(ValueError, match="extended"):
        add_tag(metadata, "words")
    add_tag(Metadata(xmp=PACKETS["nothing"].encode(), extended_xmp=PACKETS["other properties"].encode()), "words")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("strip", [False, True])
def test_files_say_what_restored_them(format: str, strip: bool, tiny_restorer: Restorer, tmp_path: Path) -> None:
    data = encoded(picture(40, 48), quality=20, xmp=PACKETS["a history"].encode())
    options = Options(strength=0.5, quality=33, detail=0.25, dither=True)
    stream = io.BytesIO()
    Settings(options=options, tag=True, strip=strip).save(tiny_restorer.begin(data, options), stream, format)
    xmp = read_picture(stream.getvalue()).metadata.xmp
    assert xmp is not None
    *before, said = events(xmp)
    assert len(before) == (0 if strip else 1)
    words = said["parameters"] or ""
    name, hashed = tiny_restorer.model_file.description.name, tiny_restorer.model_file.hash
    for part in (f"model {name} {hashed[:12]}", "strength 0.5", "as of quality 33", "detail 0.25", "dithered"):
        assert part in words
    plain = io.BytesIO()
    Settings(options=options).save(tiny_restorer.begin(data, options), plain, format)
    assert read_picture(plain.getvalue()).metadata.xmp == PACKETS["a history"].encode()


def test_what_was_not_restored_is_not_said_to_be(tiny_restorer: Restorer, tmp_path: Path) -> None:
    data = encoded(picture(40, 48), quality=20)
    tiny_restorer.restore(data, strength=0).save(tmp_path / "a.png", tag=True)
    assert read_picture(tmp_path / "a.png").metadata.xmp is None


def test_a_damaged_packet_is_carried_and_a_note_says_so(tiny_restorer: Restorer, tmp_path: Path) -> None:
    data = encoded(picture(40, 48), quality=20, xmp=b"<x:xmpmeta")
    note = tiny_restorer.restore(data).save(tmp_path / "a.png", tag=True)
    assert note == "not tagged: nothing can be added to its XMP (it is damaged)"
    assert read_picture(tmp_path / "a.png").metadata.xmp == b"<x:xmpmeta"
