"""Nearest neighbours against brute force in float64; the bound; the order among equals."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bricscli.errors import DataError
from bricscli.metrics.embeddings import Embedding, feature_embedding, lpips_embedding, pixel_embedding
from bricscli.metrics.neighbours import (
    BLOCK,
    Nearest,
    NeighbourSearch,
    embed,
    find_nearest,
    squared_distances,
    squared_lengths,
)

CPU = torch.device("cpu")


def pictures(count: int, seed: int, size: int = 12) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), np.uint8))


def brute_force(queries: Tensor, reference: Tensor, k: int, mirror: bool) -> tuple[list[list[int]], Tensor]:
    """Numbers and mean squared differences, float64, from the definition."""
    q, r = queries.double().flatten(1) / 255, reference.double() / 255
    distance = (q[:, None] - r.flatten(1)[None]).square().mean(2)
    if mirror:
        distance = torch.minimum(distance, (q[:, None] - r.flip(3).flatten(1)[None]).square().mean(2))
    rows = [sorted(range(len(reference)), key=lambda j: (float(row[j]), j))[:k] for row in distance]
    return rows, torch.stack([row[chosen] for row, chosen in zip(distance, rows, strict=True)])


@pytest.mark.parametrize("mirror", [False, True], ids=["as they are", "mirrored"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_brute_force(mirror: bool, size: int) -> None:
    queries, reference = pictures(9, 1), pictures(53, 2)
    queries[3] = reference[20].flip(2)
    found = find_nearest(queries, reference.split(size), pixel_embedding(CPU), 5, mirror)
    numbers, distances = brute_force(queries, reference, 5, mirror)
    assert found.index.tolist() == numbers
    torch.testing.assert_close(found.distance, distances, rtol=1e-5, atol=0)
    assert found.mirrored.any() == mirror
    if mirror:
        assert (found.index[3, 0], bool(found.mirrored[3, 0]), float(found.distance[3, 0])) == (20, True, 0.0)


def test_the_same_bytes_whatever_the_chunks() -> None:
    torch.manual_seed(0)
    embedding, queries, reference = lpips_embedding("lpips-alex", None, CPU), pictures(5, 3, 32), pictures(30, 4, 32)
    whole, *others = (find_nearest(queries, reference.split(size), embedding, 4, True) for size in (100, 1, 7))
    for other in others:
        assert torch.equal(other.distance, whole.distance)
        assert torch.equal(other.index, whole.index) and torch.equal(other.mirrored, whole.mirrored)


def test_among_equals_the_first_and_the_one_that_is_not_mirrored() -> None:
    reference = pictures(40, 5)
    reference[[8, 17, 31]] = torch.maximum(reference[8], reference[8].flip(2))  # symmetric
    for size in (1, 7, 40):
        found = find_nearest(reference[8:9], reference.split(size), pixel_embedding(CPU), 2, True)
        assert found.index.tolist() == [[8, 17]] and not found.mirrored.any() and not found.distance.any()


def test_fewer_images_than_neighbours() -> None:
    found = find_nearest(pictures(2, 1), [pictures(3, 2)], pixel_embedding(CPU), 5)
    assert found.index[:, 3:].tolist() == [[-1, -1]] * 2 and (found.index[:, :3] >= 0).all()
    assert found.distance[:, :3].isfinite().all() and found.distance[:, 3:].isinf().all()


def hard_vectors(count: int, dimension: int, seed: int) -> Tensor:
    """Long vectors close together, with numbers of many magnitudes: what cancellation is about."""
    generator = torch.Generator().manual_seed(seed)
    centre = 10 ** (torch.rand(dimension, generator=torch.Generator().manual_seed(0)) * 4 - 2)
    return centre + 1e-3 * torch.randn(count, dimension, generator=generator)


def test_the_bounds_hold_the_distances() -> None:
    queries, rows = hard_vectors(20, 40 * BLOCK, 1), hard_vectors(64, 40 * BLOCK, 2)
    low, high = NeighbourSearch(queries, Nearest.empty(20, 1)).bounds(rows)
    i, j = torch.meshgrid(torch.arange(20), torch.arange(64), indexing="ij")
    direct = squared_distances(queries, i.flatten(), rows, j.flatten()).view(20, 64)
    exact = (queries.double()[:, None] - rows.double()[None]).square().sum(2)
    torch.testing.assert_close(direct, exact, rtol=1e-6, atol=0)
    assert (low <= direct).all() and (direct <= high).all()
    naive = (squared_lengths(queries)[:, None] + squared_lengths(rows)).float() - 2 * queries @ rows.T
    assert (naive - exact).abs().max() > 1e2 * exact.max(), "the product alone is useless here"
    assert (high - low).max() < 0.01 * squared_lengths(rows).max(), "and the bound is not idle"


def test_neighbours_that_the_product_alone_cannot_tell() -> None:
    queries, rows = hard_vectors(20, 40 * BLOCK, 1), hard_vectors(64, 40 * BLOCK, 2)
    search = NeighbourSearch(queries, Nearest.empty(20, 3))
    for start in range(0, 64, 16):
        search.update(rows[start : start + 16, None], start)
    exact = (queries.double()[:, None] - rows.double()[None]).square().sum(2)
    assert torch.equal(search.nearest.index, exact.topk(3, largest=False).indices)


def test_few_differences_are_computed() -> None:
    """About k (1 + ln(N / k)) of N would be enough for a stream in random order."""
    queries, reference = pictures(8, 1), pictures(400, 2)
    search = NeighbourSearch(embed(queries, pixel_embedding(CPU))[:, 0], Nearest.empty(8, 4))
    for start in range(0, 400, 20):
        search.update(embed(reference[start : start + 20], pixel_embedding(CPU)), start)
    assert search.compared < 8 * 40


def test_hidden_images_are_not_found() -> None:
    reference = pictures(20, 2)
    search = NeighbourSearch(embed(reference[4:6], pixel_embedding(CPU))[:, 0], Nearest.empty(2, 3))
    hidden = torch.zeros(2, 20, dtype=torch.bool)
    hidden[0, 4] = hidden[1, 5] = hidden[1, 6:] = True
    search.update(embed(reference, pixel_embedding(CPU), True), 0, hidden)
    assert 4 not in search.nearest.index[0].tolist() and search.nearest.distance[0].isfinite().all()
    assert set(search.nearest.index[1].tolist()) <= {0, 1, 2, 3, 4}


def test_cosine_distance_of_features() -> None:
    matrix = torch.randn(432, 10, generator=torch.Generator().manual_seed(0))

    def extract(images: Tensor) -> dict[str, Tensor]:
        return {"features": images.float().flatten(1) @ matrix, "logits": images.float().mean((1, 2, 3))}

    queries, reference = pictures(4, 1), pictures(30, 2)
    found = find_nearest(queries, [reference], feature_embedding("clip", extract, CPU), 30)
    a, b = (extract(x)["features"].double() for x in (queries, reference))
    cosine = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    torch.testing.assert_close(found.distance, (1 - cosine).gather(1, found.index), rtol=0, atol=1e-5)
    assert (found.distance.diff() >= 0).all()


def test_a_vector_depends_on_its_own_image_alone() -> None:
    embedding, images = Embedding("twice", lambda x: x.flatten(1) * 2.0, CPU, width=4), pictures(6, 1)
    assert embedding(images).shape == (6, 432)
    assert torch.equal(embedding(images)[5:], embedding(images[5:]))
    torch.manual_seed(0)
    network, larger = lpips_embedding("lpips-squeeze", None, CPU), pictures(17, 2, 24)
    assert torch.equal(network(larger)[[3, 16]], torch.cat([network(larger[3:4]), network(larger[16:])]))


def test_numbers_that_are_not_finite_are_an_error() -> None:
    broken = Embedding("broken", lambda x: x.flatten(1) / 0.0, CPU)
    with pytest.raises(DataError, match="not finite"):
        find_nearest(pictures(2, 1), [pictures(3, 2)], broken, 1)


def test_tf32_stays_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        find_nearest(pictures(2, 1), [pictures(3, 2)], pixel_embedding(CPU), 1)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
