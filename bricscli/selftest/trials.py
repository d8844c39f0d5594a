"""What a guarantee's trials came to."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random


@dataclass
class Trials:
    """Of one guarantee: how many, and what failed, in words. `kinds` are counts that say more, such as kills."""

    guarantee: str
    count: int = 0
    failures: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, failure: str | None = None, count: int = 1) -> None:
        """`count` trials more, the last of which failed if there are words for it."""
        self.count += count
        if failure is not None:
            self.failures.append(failure)

    def tell(self, kind: str, count: int = 1) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + count

    @contextmanager
    def timed(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started


@dataclass(frozen=True)
class Bench:
    """Where trials are made: a folder for them, what children say, chance from a seed, whom to tell how far it is."""

    folder: Path
    seed: int
    progress: Callable[[str], None] = lambda text: None

    @property
    def log(self) -> Path:
        return self.folder / "said.txt"

    def dice(self, purpose: str) -> Random:
        return Random(f"{self.seed}:{purpose}")
