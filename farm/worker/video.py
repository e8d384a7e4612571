"""Clips to files: WebM with VP9, which every browser plays, and the still that stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL.Image import Image

from farm.models.clip import Clip

MEDIA_TYPE = "video/webm"
#: near what the eye notices; `cpu-used` trades a few percent of size for a threefold speed
_ENCODER = {"crf": "20", "b:v": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
#: equal clips become equal bytes: no random ids, no version of the library
_MUXER = {"fflags": "bitexact"}
_STILL_QUALITY = 86


def encode_webm(clip: Clip, texts: Mapping[str, str]) -> bytes:
    """`clip` as WebM (VP9, 4:2:0, BT.709) with `texts` as tags of the whole file.

    A tag's name is written in capitals, as Matroska wants it.
    """
    first = clip.frames[0]
    out = BytesIO()
    with av.open(out, "w", format="webm", container_options=_MUXER) as container:
        container.metadata.update(texts)
        # no frame rate of a model needs a larger denominator than 24000/1001
        rate = Fraction(clip.fps).limit_denominator(1001)
        stream = container.add_stream("libvpx-vp9", rate=rate, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        context = stream.codec_context
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        for picture in clip.frames:
            frame = av.VideoFrame.from_ndarray(np.asarray(picture.convert("RGB")), format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def encode_still(picture: Image) -> bytes:
    """`picture` as WebP, without metadata."""
    out = BytesIO()
    picture.convert("RGB").save(out, "WEBP", quality=_STILL_QUALITY)
    return out.getvalue()
