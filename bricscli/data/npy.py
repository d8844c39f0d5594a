"""One array of an .npy file in memory: what its header promises is compared with what is there. No pickle is read."""

import io
import math

import numpy as np
import numpy.typing as npt


def parse_npy(data: bytes) -> npt.NDArray[np.generic]:
    """Numbers, in C order, read-only. Raises ValueError for anything else, and for more or less than the header says.

    `numpy.load` makes the array first, however many terabytes a header asks for.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"the npy version {version}")
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
    except (RecursionError, MemoryError, SyntaxError, TypeError, EOFError) as error:
        raise ValueError(f"no npy header ({type(error).__name__})") from None
    if dtype.hasobject or dtype.kind not in "biuf" or columns_first or any(length < 0 for length in shape):
        raise ValueError(f"an array of {dtype}, not of plain numbers in rows")
    rest = data[file.tell():]
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"an array of {shape} {dtype} in {len(rest):,} bytes")
    return np.frombuffer(rest, dtype).reshape(shape)
