"""What a machine runs out of is said in one line, with what helps."""


import pytest
import torch

from bricscli.errors import BricsError
from bricscli.runtime import memory_errors

CPU = torch.device("cpu")


def take(error: Exception) -> None:
    with memory_errors(CPU, "Do something."):
        raise error


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_out_of_memory_is_one_line(error: Exception) -> None:
    with pytest.raises(BricsError, match=r"^cpu: is out of memory; at most \d+\.\d\d GB were in use\. Do s") as caught:
        take(error)
    assert caught.value.exit_code == 1 and len(caught.value.lines) == 1
    assert 0.05 < float(str(caught.value).split("at most ")[1].split()[0]) < 200


def test_more_than_the_machine_has() -> None:
    with pytest.raises(BricsError, match="cpu: is out of memory"), memory_errors(CPU, ""):
        torch.empty(2**60)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("x"), BricsError("y")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        take(error)
    assert caught.value is error
