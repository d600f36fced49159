"""Marks of generated images: what they say, and which image gets which.

A mark is metadata in the image's file, and never in its pixels: a classifier would learn a
watermark, because it is in every generated image and in no photograph.
"""

from typing import Any

#: Columns of a manifest: whether a generative model has made a part of the image, and IPTC's word.
SYNTHETIC, SOURCE_TYPE = "synthetic", "digital_source_type"

#: IPTC's words for where a picture comes from: https://cv.iptc.org/newscodes/digitalsourcetype/
NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
#: A photograph that a model has changed: an edit, a translation.
COMPOSITE = f"{NEWSCODES}compositeWithTrainedAlgorithmicMedia"
#: What a model has made from words alone.
GENERATED = f"{NEWSCODES}trainedAlgorithmicMedia"

_PACKET = (
    "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>"
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    "<rdf:Description rdf:about='' "
    "xmlns:Iptc4xmpExt='http://iptc.org/std/Iptc4xmpExt/2008-02-29/' "
    "Iptc4xmpExt:DigitalSourceType='{}'/>"
    "</rdf:RDF></x:xmpmeta><?xpacket end='r'?>"
)


def source_type(*, generated: bool, fallback: bool, from_text: bool) -> str | None:
    """Return IPTC's word for an image; None where no model has made any of it.

    Args:
        generated: whether a model was asked for a part of it.
        fallback: whether the original stands in for what the model refused.
        from_text: whether the model saw no photograph.
    """
    if not generated or fallback:
        return None
    return GENERATED if from_text else COMPOSITE


def columns(digital_source_type: str | None) -> dict[str, Any]:
    """Return what a manifest says of an image."""
    return {SYNTHETIC: digital_source_type is not None, SOURCE_TYPE: digital_source_type}


def described(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with these columns; older rows, and imported ones, have none."""
    if row.get(SYNTHETIC) is not None or "method" not in row:
        return row
    method = row["method"]
    kind = source_type(
        # A set of the authors' code names its method, and not always its prompts.
        generated=row.get("prompt") is not None or method in ("DiffMix", "DiffuseMix"),
        fallback=bool(row.get("fallback")),
        # Only DiffMix makes images from words; strength 1 leaves nothing of a photograph either.
        from_text=method == "DiffMix" and row.get("strength") in (None, 1),
    )
    return {**row, **columns(None if method == "original" else kind)}


def xmp(digital_source_type: str | None) -> bytes | None:
    """Return the XMP packet that marks the file of an image; None where there is nothing to mark.

    Example:
        >>> from diffaug.offline.marks import GENERATED, xmp
        >>> b"trainedAlgorithmicMedia" in xmp(GENERATED), xmp(None)
        (True, None)
    """
    return _PACKET.format(digital_source_type).encode() if digital_source_type else None
