"""Codec for zarr-python that decodes pixels stored as JPEG; installed under `imagecodecs_jpeg`, the name in zarr.json.

imagecodecs has a codec of that name too, which reads these arrays as well; where both are installed, zarr-python says
so and takes one. Only codistill writes such arrays, because their trailers hold what a codec does not know.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

from store import errors
from store.format import jpeg

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """One chunk is one image: uint8 [1, H, W, 3]; `level` and `subsampling` say how it was encoded."""

    level: int | None = None
    subsampling: str | None = None

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec of an entry of `codecs`; decoding needs none of its values."""
        configuration = data.get("configuration") or {}
        return cls(level=configuration.get("level"), subsampling=configuration.get("subsampling"))

    def to_dict(self) -> dict[str, Any]:
        values = {"level": self.level, "subsampling": self.subsampling}
        return {"name": jpeg.CODEC, "configuration": {key: value for key, value in values.items() if value is not None}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: "ArraySpec") -> int:
        raise NotImplementedError  # it depends on the image

    def _decode_sync(self, chunk_bytes: "Buffer", chunk_spec: "ArraySpec") -> "NDBuffer":
        decoded = np.empty(chunk_spec.shape, np.uint8)
        jpeg.decode(chunk_bytes.to_bytes(), decoded.reshape(decoded.shape[-3:]))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(decoded)

    async def _decode_single(self, chunk_bytes: "Buffer", chunk_spec: "ArraySpec") -> "NDBuffer":
        return self._decode_sync(chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_array: "NDBuffer", chunk_spec: "ArraySpec") -> "Buffer | None":
        raise errors.InvalidInput("pixels stored as JPEG are written by codistill alone: their trailers hold checksums")
