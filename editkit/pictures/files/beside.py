"""Parts of a file that are not edited: gain maps, motion photos, depth maps. They are left out with a notice, and the
XMP no longer refers to them.
"""

from __future__ import annotations

import re

_MARKS: tuple[tuple[bytes, str], ...] = (
    (rb"http://ns\.adobe\.com/hdr-gain-map/1\.0/", "gain map (HDR)"),
    (rb"urn:iso:std:iso:ts:21496:-1", "gain map (HDR)"),
    (rb"http://ns\.apple\.com/HDRGainMap/1\.0/", "gain map (HDR)"),
    (rb"urn:com:apple:photo:2020:aux:hdrgainmap", "gain map (HDR)"),
    (rb"infe[\s\S]{8}tmap", "gain map (HDR)"),
    (rb":MotionPhoto(?:>|=[\"'])\s*1", "film (motion photo)"),
    (rb":MicroVideo(?:>|=[\"'])\s*1", "film (motion photo)"),
    (rb"MotionPhoto_Data", "film (motion photo)"),
    (rb"http://ns\.google\.com/photos/1\.0/depthmap/", "depth map"),
    (rb"http://ns\.google\.com/photos/dd/1\.0/", "depth map"),
    (rb"xmpNote:HasExtendedXMP", "extended XMP"),
    (rb"urn:mpeg:mpegB:cicp:systems:auxiliary:depth", "depth map"),
)
"""(expression, the part that it indicates); each is found in one pass over the file."""

_NAMESPACES = (
    b"http://ns.adobe.com/hdr-gain-map/1.0/", b"http://ns.apple.com/HDRGainMap/1.0/",
    b"http://ns.google.com/photos/1.0/container/", b"http://ns.google.com/photos/1.0/container/item/",
    b"http://ns.google.com/photos/1.0/camera/", b"http://ns.google.com/photos/1.0/depthmap/",
    b"http://ns.google.com/photos/1.0/image/", b"http://ns.google.com/photos/dd/1.0/container/",
    b"http://ns.google.com/photos/dd/1.0/device/", b"http://ns.google.com/photos/dd/1.0/item/",
    b"http://ns.google.com/photos/dd/1.0/profile/", b"http://ns.adobe.com/xmp/note/",
)  # fmt: skip
"""The namespaces in an XMP packet that describe the removed parts."""


def unedited_parts(data: bytes, xmp: bytes | None) -> tuple[str, ...]:
    """List what a file with these bytes and this XMP contains beside its picture."""
    found = [what for mark, what in _MARKS if any(re.search(mark, where) for where in (data, xmp or b""))]
    return tuple(dict.fromkeys(found))


def strip_removed_parts(xmp: bytes) -> bytes:
    """Remove the attributes and elements of those namespaces, under any prefix, from an XMP packet. Each byte is read a
    bounded number of times."""
    prefixes = [
        prefix
        for prefix, _, uri in re.findall(rb"\sxmlns:([\w.-]{1,40})=([\"'])([^\"'<>]{1,200})\2", xmp)
        if uri in _NAMESPACES
    ]
    for prefix in list(dict.fromkeys(prefixes))[:32]:
        xmp = _strip_elements(xmp, prefix)
        word = re.escape(prefix)
        xmp = re.sub(rb"\s" + word + rb":[\w.-]{1,80}=(?:\"[^\"<>]*\"|'[^'<>]*')", b"", xmp)
        xmp = re.sub(rb"\sxmlns:" + word + rb"=(?:\"[^\"<>]*\"|'[^'<>]*')", b"", xmp)
    return xmp


def _strip_elements(xmp: bytes, prefix: bytes) -> bytes:
    """Remove the outermost elements of a prefix, in one pass over their tags that counts the depth."""
    kept, at, depth = [], 0, 0
    tags = re.finditer(rb"<(/?)" + re.escape(prefix) + rb":[\w.-]{1,80}(?:\s[^<>]*)?>", xmp)
    for tag in tags:
        closes, alone = bool(tag[1]), tag[0].endswith(b"/>")
        if depth == 0 and not closes:
            kept.append(xmp[at : tag.start()])
            at = tag.start()
        depth += 0 if alone else -1 if closes else 1
        depth = max(depth, 0)
        if depth == 0:
            at = max(at, tag.end())
    if depth:  # an unclosed element would contain the rest of the packet
        return xmp
    return b"".join([*kept, xmp[at:]])
