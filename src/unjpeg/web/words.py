"""What ``inspect`` and ``verify`` say, in words a photographer understands."""

from __future__ import annotations

from dataclasses import dataclass

from unjpeg.inspection import Inspection
from unjpeg.layers import EarlierJpeg
from unjpeg.picture import Picture
from unjpeg.projection import Consistency
from unjpeg.restorer import Report

__all__ = ["Fact", "check_in_words", "file_in_words"]

_OTHER_SCALE = 0.1
"""From this distance to the standard tables on, a program's own scale was used: cameras, editors."""

_WHOLE_SHARE = 0.98
"""Of a picture's pixels, from which on a part of it counts as all."""

_SAID_OF_FILE = ("before this file: ", "salvaged from a damaged file")
"""Notes that would say of the result what the file's facts have said already."""

_COMPRESSION = (
    (25, "very strong compression, the damage is plain to see"),
    (50, "strong compression, the damage shows"),
    (75, "medium compression, the damage shows up close"),
    (90, "light compression, hardly any damage"),
    (101, "very light compression, next to no damage"),
)

_COLOUR_DETAIL = {
    "grey": "Black and white: the file stores no colour.",
    "4:4:4": "Stored for every pixel (4:4:4).",
    "4:2:2": "Stored for every second pixel of a row (4:2:2).",
    "4:4:0": "Stored for every second row (4:4:0).",
    "4:2:0": "Stored for every fourth pixel (4:2:0), as most cameras and websites do.",
    "4:1:1": "Stored for every fourth pixel of a row (4:1:1).",
}


_INKS = (
    "CMYK, for printing. Each ink is restored, and the download is a TIFF or a JPEG: no other format here holds inks. "
    "What you see on this page is RGB."
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know.

    Attributes:
        title: what it is about, a word or three.
        text: one or two sentences.
        tone: "plain", "good" or "careful", for how to set it.
    """

    title: str
    text: str
    tone: str = "plain"


def file_in_words(picture: Picture, inspection: Inspection) -> list[Fact]:
    """About a file as it came. The inspection has a read quality."""
    height, width = picture.pixels.shape[:2]
    facts = [Fact("Size", f"{width} x {height} pixels, {_megapixels(width * height)}.")]
    if picture.sound_rows is not None:
        text = "A damaged JPEG. What decodes of it is restored by its looks alone."
        facts.append(Fact("Kind of file", text, "careful"))
    elif inspection.stated_quality is None:
        facts.append(_kind_of_file(inspection))
    else:
        if picture.inks is not None:
            facts.append(Fact("Kind of file", _INKS, "careful"))
        colour = _COLOUR_DETAIL.get(inspection.subsampling or "", f"Stored as {inspection.subsampling}.")
        facts += [
            Fact("Saved at", _saved_at(inspection)),
            Fact("Looks like", f"Quality {inspection.read_quality}, judged by the pixels alone."),
            Fact("Colour detail", colour),
        ]
    if picture.inks is not None:
        facts.append(Fact("Before that", "Not looked at: that is done for RGB and grey pictures."))
    elif picture.sound_rows is None:  # what decodes shows the damaged file itself, and is not restored as that
        facts.append(_before_that(inspection))
    metadata = picture.metadata
    if picture.deep is not None:
        text = f"{picture.bits} bits for each colour: kept in a PNG or TIFF. JPEG, WebP and AVIF get 8."
        facts.append(Fact("Depth", text, "careful"))
    if picture.left_alone:
        facts.append(Fact("Left alone", f"{picture.left_alone[0].upper()}{picture.left_alone[1:]}.", "careful"))
    count = len(metadata.comments)
    there = (
        ("camera data (EXIF)", metadata.exif),
        ("colour profile", metadata.icc_profile),
        ("XMP", metadata.xmp),
        ("captions (IPTC)", metadata.photoshop),
        ("a comment" if count < 2 else f"{count} comments", metadata.comment),
    )
    carried = [name for name, block in there if block is not None]
    text = f"{_listed(carried)}: kept in the download." if carried else "Nothing."
    if metadata.photoshop is not None or metadata.comment is not None:
        text += " WebP and AVIF have no place for captions and comments."
    facts.append(Fact("Also in the file", text))
    return facts


def check_in_words(report: Report, consistency: Consistency | None) -> list[Fact]:
    """About a result. ``consistency`` is None if the source was no JPEG."""
    facts = []
    if consistency is None:
        facts.append(Fact("True to the file?", "Cannot be said: only a JPEG tells what it was made from.", "careful"))
    elif not consistency.can_tell:
        text = (
            "Nothing in this result contradicts your file. More cannot be said: the picture is too small, or pure "
            "black and white everywhere."
        )
        facts.append(Fact("True to the file?", text, "careful"))
    elif consistency.is_consistent:
        text = (
            "Yes. Nothing in this result contradicts your file: saved again the same way, it could give that very JPEG."
        )
        facts.append(Fact("True to the file?", text, "good"))
    else:
        text = f"Not quite: {_share(1 - consistency.share_inside)} of its details go beyond what your file allows."
        facts.append(Fact("True to the file?", text, "careful"))
    if report.earlier and consistency is not None and consistency.contradicts:
        text = (
            "The damage was done before this file was saved. The result is true to that earlier JPEG, and not to your "
            "file, which does not tell the whole truth."
        )
        facts.append(Fact("Saved twice", text, "careful"))
    notes = [note for note in report.notes if not note.startswith(_SAID_OF_FILE)]
    return facts + [Fact("Note", f"{_capital(_on_page(note))}.", "careful") for note in notes]


def _on_page(note: str) -> str:
    """A note of the library, with what the page calls its keywords."""
    return note.replace("give a quality (quality=90) to", 'choose one under "Smooth as for quality" to')


def _before_that(inspection: Inspection) -> Fact:
    """What happened before the file was saved, as far as the pixels tell."""
    size = inspection.width * inspection.height
    whole = [earlier for earlier in inspection.earlier if earlier.width * earlier.height >= _WHOLE_SHARE * size]
    sentences: list[str] = []
    if whole:
        (first, *_) = whole
        words = next(words for below, words in _COMPRESSION if first.quality < below)
        sentences.append(f"The picture was a JPEG before, saved at {_about(first)}: {words}.")
        if first.grid_top or first.grid_left:
            sentences.append("Then it was cropped.")
        if first.is_turned:
            sentences.append("Then it was turned or mirrored.")
        sentences.append("It is restored as that JPEG.")
    elif inspection.earlier:
        count = len(inspection.earlier)
        sentences.append("A part of the picture comes" if count == 1 else f"{count} parts of the picture come")
        sentences[0] += " from a JPEG." if count == 1 else " from JPEGs."
        for earlier in inspection.earlier:
            place = (
                f"{earlier.width} x {earlier.height} pixels, {earlier.left} from the left and {earlier.top} from above"
            )
            sentences.append(f"One, {place}, was saved at {_about(earlier)}.")
        sentences.append("Each is restored as that JPEG.")
    elif inspection.in_words:  # without an earlier JPEG that is all they say; of lossy files it is not said
        return Fact("Before that", "Never compressed, as far as the pixels show.", "good")
    else:
        return Fact("Before that", "Nothing can be told: no earlier JPEG shows in the pixels.")
    return Fact("Before that", " ".join(sentences), "careful")


def _about(earlier: EarlierJpeg) -> str:
    return f"quality {earlier.quality}" if earlier.is_standard else f"about quality {earlier.quality}"


def _saved_at(inspection: Inspection) -> str:
    quality, distance = inspection.stated_quality, inspection.table_distance
    assert quality is not None
    assert distance is not None
    words = next(words for below, words in _COMPRESSION if quality < below)
    about = "about " if distance >= _OTHER_SCALE else ""
    return f"JPEG quality {about}{quality} of 100: {words}."


def _kind_of_file(inspection: Inspection) -> Fact:
    if inspection.earlier:
        text = f"{inspection.kind}, but its pixels were a JPEG's. It is restored as that JPEG."
        return Fact("Kind of file", text)
    if inspection.comparable_quality is not None:
        text = (
            f"{inspection.kind}. It was compressed about as hard as a JPEG of quality {inspection.comparable_quality}, "
            "and is restored like one: there is no JPEG to stay true to."
        )
        return Fact("Kind of file", text, "careful")
    if inspection.history == "clean":
        text = f"{inspection.kind}, and never compressed as far as the pixels show. It is left as it is."
        return Fact("Kind of file", text, "good")
    text = "Not a JPEG. It is restored by its looks alone: there is no file to stay true to."
    return Fact("Kind of file", text, "careful")


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.1f} megapixels" if pixels >= 50_000 else "tiny"


def _share(share: float) -> str:
    return f"{share * 100:.1f} %" if share >= 0.001 else "less than 0.1 %"


def _listed(names: list[str]) -> str:
    text = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return _capital(text)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
