"""XMP packets: update what an edit invalidates, and store the provenance."""

from __future__ import annotations

import html
import re


def upright_xmp(xmp: bytes) -> bytes:
    """Set the orientation of XMP to 1 and remove its thumbnails."""
    xmp = re.sub(rb'(tiff:Orientation=["\'])\d+(["\'])', rb"\g<1>1\g<2>", xmp)
    xmp = re.sub(rb"(<tiff:Orientation>)\d+(</tiff:Orientation>)", rb"\g<1>1\g<2>", xmp)
    return _without_thumbnails(xmp)


_SIZES = (b"tiff:ImageWidth", b"exif:PixelXDimension"), (b"tiff:ImageLength", b"exif:PixelYDimension")


def sized_xmp(xmp: bytes, size: tuple[int, int]) -> bytes:
    """Set the size tags of XMP, if any, to `size`, (width, height)."""
    for names, number in zip(_SIZES, size, strict=True):
        word, new = b"(?:" + b"|".join(names) + b")", rb"\g<1>%d\g<2>" % number
        xmp = re.sub(b"(" + word + rb"=[\"\'])\d+([\"\'])", new, xmp)
        xmp = re.sub(b"(<" + word + rb">)\d+(</" + word + b">)", new, xmp)
    return xmp


def _without_thumbnails(xmp: bytes) -> bytes:
    """Remove thumbnails, reading each byte once: a regular expression would restart at every unclosed element."""
    begin, end = b"<xmp:Thumbnails>", b"</xmp:Thumbnails>"
    kept, at = [], 0
    while (start := xmp.find(begin, at)) >= 0 and (stop := xmp.find(end, start)) >= 0:
        kept.append(xmp[at:start])
        at = stop + len(end)
    return b"".join([*kept, xmp[at:]])


MAX_TEXT = 1 << 18
"""Most bytes of provenance that are written or read."""

NAMESPACE = "urn:editkit:1.0:"

_HEAD = f'<rdf:Description rdf:about="" xmlns:editkit="{NAMESPACE}"><editkit:provenance>'
_TAIL = "</editkit:provenance></rdf:Description>"
_BLOCK = re.compile(re.escape(_HEAD.encode()) + rb"([^<]{0,%d})" % (2 * MAX_TEXT) + re.escape(_TAIL.encode()))
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
).encode()
_RDF_END = b"</rdf:RDF>"


def insert_provenance(xmp: bytes | None, text: str) -> bytes:
    """Store the provenance `text` in an XMP packet, replacing an older one."""
    packet = without_provenance(xmp or _PACKET)
    if _RDF_END not in packet:
        packet += _PACKET
    before, end, after = packet.rpartition(_RDF_END)
    return before + (_HEAD + html.escape(text, quote=False) + _TAIL).encode() + end + after


def without_provenance(xmp: bytes) -> bytes:
    """Remove the provenance from an XMP packet."""
    return _BLOCK.sub(b"", xmp)


def provenance_in(data: bytes) -> bytes | None:
    """Return the provenance, still escaped, of a packet or of a file that contains one."""
    found = _BLOCK.search(data)
    return None if found is None else found[1]


def blank_provenance(data: bytes) -> bytes:
    """Replace the provenance in `data` by spaces, so that no length or offset changes."""
    return _BLOCK.sub(lambda found: b" " * len(found[0]), data)
