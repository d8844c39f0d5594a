"""The head of a safetensors file is believed no further than the file goes."""

import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bricscli.tensor_files import MOST_HEADER_BYTES, check_header


def test_heads(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path, {"brics": "{}"})
    check_header(path)
    for start in (b"", b"{}", struct.pack("<Q", 2) + b"[]", bytes(9)):
        path.write_bytes(start)
        with pytest.raises(ValueError, match="it is no safetensors file"):
            check_header(path)
    for length in (1 << 62, MOST_HEADER_BYTES + 1, 100):
        path.write_bytes(struct.pack("<Q", length) + b"{" * 99)
        with pytest.raises(ValueError, match=f"its header is said to have {length:,} bytes"):
            check_header(path)
