"""Labels of images: a member `<key>.cls` that holds a class's number as text, as WebDataset's data sets have it.

The manifest's header names the classes, `"classes": [name, ...]`: a label is the number of a name in it.
"""

import zlib

import numpy as np

from bricscli.data.loader import Indices
from bricscli.data.shards import Split
from bricscli.errors import DataError

LABEL = "cls"


def encode_label(label: int) -> bytes:
    return str(label).encode()


def read_labels(split: Split, classes: int) -> Indices:
    """int64 (len(split),), in the split's own order.

    Nothing is read but the manifest: it has the CRC-32 of every member, and each class's number has its own. So the
    labels of a million samples take a second. Raises DataError where there is none, or none of the `classes`.
    """
    numbers = {zlib.crc32(encode_label(label)): label for label in range(classes)}
    assert len(numbers) == classes, "two numbers with one CRC-32"
    labels = np.array([numbers.get(crc32, -1) for crc32 in split.crc32s(LABEL)], np.int64)
    if (labels < 0).any():
        raise DataError(f"{split.where(int(labels.argmin()), LABEL)}: is no class from 0 to {classes - 1}. "
                        "Delete the data set and make it again.")
    return labels
