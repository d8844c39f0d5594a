"""The GPU programs of `triton_kernel`, which imports this file only where there is Triton.

Everywhere one lane owns one output entry of C_v channels and sums what reaches it in a fixed order: no atomics, so two
runs agree to the bit. Positions of pixel centres are exact: (i + 0.5) / W * r = (2 i + 1) r / (2 W) in integers.

Integers within a level of a sample are 32 bits wide, as division is slow in 64; what spans levels or samples has 64.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(batch: tl.tensor, tile: tl.tensor, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
          SAMPLES: tl.constexpr, PIXELS: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Pixels, rows (sample * H W + pixel) and mask of a tile: its samples share columns, which L1 therefore holds."""
    lane = tl.arange(0, SAMPLES * PIXELS)
    across = tl.cdiv(batch, SAMPLES)
    sample = tile % across * SAMPLES + lane // PIXELS
    pixel = tile // across * PIXELS + lane % PIXELS
    row = sample.to(tl.int64) * (HEIGHT * WIDTH) + pixel
    return pixel, row, (sample < batch) & (pixel < HEIGHT * WIDTH)


@triton.jit
def _unit(keys: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Keys, read at the ends of [0, 1] where they lie beyond, so that no entry outside the table is reached."""
    return tl.clamp(tl.load(keys, mask=inside, other=0.0), 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _centre(pixel: tl.tensor, resolution: tl.tensor, SIZE: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Pixel centre -> the node below, and the fraction of the cell."""
    position = (2 * pixel + 1) * resolution
    return position // (2 * SIZE), (position % (2 * SIZE)).to(tl.float32) / (2 * SIZE)


@triton.jit
def _entry(table: tl.tensor, entry: tl.tensor, inside: tl.tensor, MAX_ENTRIES: tl.constexpr,
           CHANNELS: tl.constexpr) -> tl.tensor:
    place = table + (entry % MAX_ENTRIES)[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    return tl.load(place, mask=inside[:, None], other=0.0)


@triton.jit
def _cell(table: tl.tensor, key: tl.tensor, pixel: tl.tensor, inside: tl.tensor, resolution: tl.tensor,
          MAX_ENTRIES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
          CHANNELS: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The column of a pixel at the nodes below and above the key, `(lanes, C_v)` each, and the fraction between."""
    nodes = resolution + 1
    position = key * resolution
    node = tl.minimum(tl.maximum(position.to(tl.int32), 0), resolution - 1)
    x, right = _centre(pixel % WIDTH, resolution, WIDTH)
    y, down = _centre(pixel // WIDTH, resolution, HEIGHT)
    below = tl.zeros([key.shape[0], CHANNELS], tl.float32)
    above = tl.zeros([key.shape[0], CHANNELS], tl.float32)
    for dy in tl.static_range(2):
        for dx in tl.static_range(2):
            weight = ((right if dx else 1 - right) * (down if dy else 1 - down))[:, None]
            entry = (x + dx + (y + dy) * nodes) * nodes + node
            below += weight * _entry(table, entry, inside, MAX_ENTRIES, CHANNELS)
            above += weight * _entry(table, entry + 1, inside, MAX_ENTRIES, CHANNELS)
    return below, above, position - node


@triton.jit
def interpolate(table: tl.tensor, keys: tl.tensor, result: tl.tensor, resolutions: tl.tensor, starts: tl.tensor,
                batch: tl.tensor, group_entries: tl.tensor, LEVELS: tl.constexpr, MAX_ENTRIES: tl.constexpr,
                HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, SAMPLES: tl.constexpr,
                PIXELS: tl.constexpr) -> None:
    """Forward. Levels are the fastest program axis: neighbours write neighbouring parts of a row at the same time."""
    level, group = tl.program_id(0) % LEVELS, tl.program_id(1).to(tl.int64)
    pixel, row, inside = _tile(batch, tl.program_id(0) // LEVELS, HEIGHT, WIDTH, SAMPLES, PIXELS)
    row += group * batch * (HEIGHT * WIDTH)
    key = _unit(keys + row, inside)
    table += (group * group_entries + tl.load(starts + level)) * CHANNELS
    below, above, fraction = _cell(table, key, pixel, inside, tl.load(resolutions + level),
                                   MAX_ENTRIES, HEIGHT, WIDTH, CHANNELS)
    value = (1 - fraction)[:, None] * below + fraction[:, None] * above
    place = result + ((row * LEVELS + level) * CHANNELS)[:, None] + tl.arange(0, CHANNELS)[None, :]
    tl.store(place, value, mask=inside[:, None])


@triton.jit
def key_gradient(table: tl.tensor, keys: tl.tensor, gradient: tl.tensor, result: tl.tensor, resolutions: tl.tensor,
                 starts: tl.tensor, batch: tl.tensor, group_entries: tl.tensor, LEVELS: tl.constexpr,
                 MAX_ENTRIES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
                 SAMPLES: tl.constexpr, PIXELS: tl.constexpr) -> None:
    """Backward to the keys: the slopes of all levels, summed in registers. The corners are read again, not kept."""
    group = tl.program_id(1).to(tl.int64)
    pixel, row, inside = _tile(batch, tl.program_id(0), HEIGHT, WIDTH, SAMPLES, PIXELS)
    row += group * batch * (HEIGHT * WIDTH)
    key = _unit(keys + row, inside)
    table += group * group_entries * CHANNELS
    total = tl.zeros([SAMPLES * PIXELS], tl.float32)
    for level in range(LEVELS):
        resolution = tl.load(resolutions + level)
        below, above, _ = _cell(table + tl.load(starts + level) * CHANNELS, key, pixel, inside, resolution,
                                MAX_ENTRIES, HEIGHT, WIDTH, CHANNELS)
        place = gradient + ((row * LEVELS + level) * CHANNELS)[:, None] + tl.arange(0, CHANNELS)[None, :]
        total += resolution * tl.sum((above - below) * tl.load(place, mask=inside[:, None], other=0.0), axis=1)
    tl.store(result + row, total, mask=inside)


@triton.jit
def spread_keys(gradient: tl.tensor, keys: tl.tensor, columns: tl.tensor, resolutions: tl.tensor, starts: tl.tensor,
                batch: tl.tensor, AREA: tl.constexpr, LEVELS: tl.constexpr, CHANNELS: tl.constexpr,
                BLOCK: tl.constexpr) -> None:
    """Backward to the table, along the keys: columns[level][pixel, node] = sum over samples of hat * gradient."""
    level, first = tl.program_id(1), tl.program_id(0) * BLOCK
    resolution = tl.load(resolutions + level)
    nodes = resolution + 1
    if first >= AREA * nodes:
        return
    entry = first + tl.arange(0, BLOCK)
    pixel, node, inside = entry // nodes, entry % nodes, entry < AREA * nodes
    channel = tl.arange(0, CHANNELS)[None, :]
    keys += pixel
    gradient += ((pixel * LEVELS + level) * CHANNELS)[:, None] + channel
    total = tl.zeros([BLOCK, CHANNELS], tl.float32)
    for _ in tl.range(batch, loop_unroll_factor=4):
        hat = tl.maximum(1 - tl.abs(node - _unit(keys, inside) * resolution), 0.0)
        total += hat[:, None] * tl.load(gradient, mask=inside[:, None], other=0.0)
        keys += AREA
        gradient += AREA * LEVELS * CHANNELS
    columns += tl.load(starts + level) * CHANNELS
    tl.store(columns + entry[:, None] * CHANNELS + channel, total, mask=inside[:, None])


@triton.jit
def spread_axis(source: tl.tensor, target: tl.tensor, resolutions: tl.tensor, source_starts: tl.tensor,
                target_starts: tl.tensor, SIZE: tl.constexpr, OUTER: tl.constexpr, INNER_AXES: tl.constexpr,
                MAX_ENTRIES: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Backward to the table, along an axis of pixels: `(OUTER, SIZE, inner)` -> `(OUTER, nodes, inner)`.

    inner = nodes^INNER_AXES. An entry of the target collects every node that wraps around to it, MAX_ENTRIES apart.
    """
    level, first = tl.program_id(1), tl.program_id(0) * BLOCK
    target_start = tl.load(target_starts + level)
    stored = (tl.load(target_starts + level + 1) - target_start).to(tl.int32)
    if first >= stored:
        return
    resolution = tl.load(resolutions + level)
    nodes = resolution + 1
    inner = nodes if INNER_AXES == 1 else nodes * nodes
    entry, channel = first + tl.arange(0, BLOCK), tl.arange(0, CHANNELS)[None, :]
    source += tl.load(source_starts + level) * CHANNELS
    total = tl.zeros([BLOCK, CHANNELS], tl.float32)
    for wrap in range((OUTER * nodes * inner - 1) // MAX_ENTRIES + 1):
        virtual = entry + wrap * MAX_ENTRIES
        outer, node, rest = virtual // inner // nodes, virtual // inner % nodes, virtual % inner
        exists = (entry < MAX_ENTRIES) & (outer < OUTER)  # padding belongs to no node
        # |node - (2 i + 1) r / (2 SIZE)| < 1 for at most ceil(2 SIZE / r) pixels i, and not before this one.
        pixel = tl.maximum((node - 1) * 2 * SIZE + resolution, 0) // (2 * resolution)
        for _ in range(tl.cdiv(2 * SIZE, resolution)):
            distance = tl.abs(node * 2 * SIZE - (2 * pixel + 1) * resolution)
            hat = tl.maximum(1 - distance.to(tl.float32) / (2 * SIZE), 0.0)
            place = source + ((outer * SIZE + pixel) * inner + rest)[:, None] * CHANNELS + channel
            total += hat[:, None] * tl.load(place, mask=(exists & (pixel < SIZE))[:, None], other=0.0)
            pixel += 1
    target += target_start * CHANNELS
    tl.store(target + entry[:, None] * CHANNELS + channel, total, mask=(entry < stored)[:, None])
