"""Arrays of shards: as NumPy writes them, or an error, whatever their header says."""

import io
import struct

import numpy as np
import pytest

from bricscli.data.npy import parse_npy


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def headed(shape: str, descr: str = "'<f2'", data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize("array", [np.arange(24, dtype=np.float16).reshape(2, 3, 4), np.array(5), np.zeros((0, 2)),
                                   np.array([True, False]), np.arange(3, dtype=">i4")])
def test_arrays(array: np.ndarray) -> None:
    found = parse_npy(saved(array))
    assert (found.dtype, found.shape) == (array.dtype, array.shape) and np.array_equal(found, array)


@pytest.mark.parametrize("data", [
    headed(f"({1 << 39},)"), headed("(1 << 62,)"), headed(f"({1 << 40}, {1 << 40})"), headed("(2,)", data=bytes(3)),
    headed("(2,)", data=bytes(5)), headed("(-1,)"), headed("(2,)", "'|O'", bytes(16)),
    headed("(2,)", "'<U9'", bytes(72)), headed("(" * 5000), headed("[" * 5000), headed("2"),
    headed("(2,)", "[('a', '<f2')]", bytes(4)),
    headed("(2,)", "__import__('os')", bytes(4)), saved(np.zeros((3, 4), order="F")), b"", b"\x93NUMPY",
    b"\x93NUMPY\x03\x00" + bytes(99), b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(99), b"not an array",
])
def test_what_is_no_array_of_numbers(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_npy(data)
