"""One array of an .npy file in memory: what its header promises is compared with what is there. No pickle is read."""

import io
import math
from typing import IO

import numpy as np
import numpy.typing as npt


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether columns come first, and type, from where a file stands. Raises ValueError, and OSError."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"the npy version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = read(file)
    except (OSError, ValueError):
        raise
    except Exception as error:  # numpy hands the header to Python's own parser, which raises nearly everything
        raise ValueError(f"no npy header ({type(error).__name__})") from None
    if any(length < 0 for length in shape):
        raise ValueError(f"an array of {shape}")
    return shape, columns_first, dtype


def parse_npy(data: bytes) -> npt.NDArray[np.generic]:
    """Numbers, in C order, read-only. Raises ValueError for anything else, and for more or less than the header says.

    `numpy.load` makes the array first, however many terabytes a header asks for.
    """
    file = io.BytesIO(data)
    shape, columns_first, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "biuf" or columns_first:
        raise ValueError(f"an array of {dtype}, not of plain numbers in rows")
    rest = data[file.tell():]
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"an array of {shape} {dtype} in {len(rest):,} bytes")
    return np.frombuffer(rest, dtype).reshape(shape)
