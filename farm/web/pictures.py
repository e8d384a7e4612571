"""Pictures that people send: decoded under strict caps, kept only as small ones of our own making."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps

from farm.errors import BadRequest

MAX_PICTURE_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 16_000_000
PREVIEW_PIXELS = 512


def thumbnail(data: bytes) -> bytes:
    """`data` as a WebP of at most 512 pixels a side, without its metadata.

    Raises:
        BadRequest: no PNG, JPEG or WebP; damaged; too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise BadRequest(
                        f"the picture has {picture.width}x{picture.height} pixels",
                        f"use at most {MAX_PIXELS}",
                        code="too_many_pixels",
                    )
                small = ImageOps.exif_transpose(picture).convert("RGB")
                small.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
                out = io.BytesIO()
                # a new picture: nothing of the old one's metadata can follow
                clean = Image.new("RGB", small.size)
                clean.paste(small)
                clean.save(out, "WEBP", quality=82)
                return out.getvalue()
    except BadRequest:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like on hostile bytes
        raise BadRequest(
            "this is no picture that can be read",
            f"send PNG, JPEG or WebP ({type(error).__name__})",
            code="bad_picture",
        ) from None
