"""What must not be compared is refused, with every reason; forced, the reasons stay."""

from typing import Any

import pytest

from bricscli.errors import MismatchError
from bricscli.tasks.eval.comparable import check_comparable, open_questions, reasons_against, too_few

LANCZOS = {"source": "folder", "crop": "center", "resize": "lanczos", "resolution": 64, "format": "png"}


def side(name: str, images: int | None = 50_000, **changes: Any) -> dict[str, Any]:
    return {"name": name, "images": images, "of": images, "preparation": LANCZOS} | changes


def test_equal_preparation_and_enough_images_are_fine() -> None:
    assert reasons_against(side("samples"), side("church")) == []
    other_source = LANCZOS | {"source": "lsun-church", "format": "webp"}
    assert reasons_against(side("samples"), side("church", preparation=other_source)) == []
    assert reasons_against(side("samples"), side("church", 10_000)) == []
    assert reasons_against(side("samples"), side("church", None, preparation=None)) == []


@pytest.mark.parametrize(("samples", "reference", "words"), [
    (side("samples", 9_999), side("church"), ["samples samples: 9,999 images, fewer than 10,000"]),
    (side("samples"), side("church", 300), ["reference church: 300 images, fewer than 10,000"]),
    (side("samples", lossy=True), side("church"), ["samples samples: JPEG files, whose compression"]),
    (side("samples"), side("church", preparation=LANCZOS | {"resize": "adm"}),
     ["training images were resized by `lanczos`, those of the reference church by `adm`"]),
    (side("samples", 5, lossy=True), side("church", preparation=LANCZOS | {"crop": None}),
     ["fewer than 10,000", "JPEG", "cropped by `center`, those of the reference church by `nothing`"]),
], ids=["few samples", "few references", "JPEG", "filter", "all at once"])
def test_each_reason_has_its_line(samples: Any, reference: Any, words: list[str]) -> None:
    reasons = reasons_against(samples, reference)
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))
    with pytest.raises(MismatchError) as caught:
        check_comparable(reasons, force=False)
    assert caught.value.exit_code == 4
    assert len(caught.value.lines) == len(words) + 1 and "--force" in caught.value.lines[-1]
    assert check_comparable(reasons, force=True) == reasons


def test_a_jpeg_reference_is_what_it_is() -> None:
    assert reasons_against(side("samples"), side("church", lossy=True)) == []


def test_what_is_not_known_is_written_down() -> None:
    assert open_questions(side("samples"), side("church", split="train"), 50_000) == []
    questions = open_questions(side("samples", 10_000, preparation=None), side("church", split="val"), 50_000)
    assert questions == ["how the images of samples were prepared is not known",
                         "10,000 samples, the protocol's are 50,000",
                         "against validation images, the protocol's are those of training"]


def test_a_set_and_what_was_made_of_it_differ_in_nothing_but_their_number() -> None:
    assert too_few("images", side("church", lossy=True)) == []
    assert too_few("images", side("church", 300)) == ["images church: 300 images, fewer than 10,000"]
