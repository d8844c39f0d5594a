"""The head of a safetensors file, looked at before the library reads it. No torch at import."""

import struct
from pathlib import Path

#: JSON in front of the tensors: a name, a type and a few numbers of each. The library itself would take 100 MB.
MOST_HEADER_BYTES = 16 << 20


def check_header(path: Path) -> None:
    """Raises ValueError where a file cannot be of safetensors, or its header asks for more memory than any of ours."""
    with open(path, "rb") as file:
        start = file.read(9)
        size = file.seek(0, 2)
    if len(start) < 9 or start[8:] != b"{":
        raise ValueError("it is no safetensors file")
    (length,) = struct.unpack("<Q", start[:8])
    if length > min(MOST_HEADER_BYTES, size - 8):
        raise ValueError(f"its header is said to have {length:,} bytes")
