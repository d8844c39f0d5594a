"""What processes tell each other, how they begin, and how they end when one of them does not go on."""

import signal
from typing import Any

import pytest

from bricscli.errors import BricsError, DataError, RecipeError
from bricscli.parallel.world import ALONE, World, in_world, join_world, virtual_ranks


def test_alone_nothing_is_sent() -> None:
    with join_world("cpu") as world:
        assert world == ALONE and world.first and world.acts and not in_world()
        assert list(world.rows(5)) == [0, 1, 2, 3, 4]
        assert world.any(True, False) == [True, False]
        assert world.gather_json({"a": 1}) == [{"a": 1}] and world.told(2) == 2
        with pytest.raises(DataError, match="lost"), world.together():
            raise DataError("lost")


def test_what_they_tell_each_other(processes: Any) -> None:
    code = r"""
result["rows"] = list(world.rows(8))
result["cut"] = world.cut(torch.arange(8)).tolist()
result["gathered"] = world.gather(torch.tensor([world.rank, 7.5])).tolist()
result["any"] = world.any(world.rank == 2, False, True)
result["json"] = world.gather_json({"rank": world.rank, "text": "ü" * world.rank})
result["told"] = world.told(["first"] if world.first else "nobody hears this")
"""
    for rank, result in enumerate(processes.good(4, code)):
        assert result == {
            "rows": [2 * rank, 2 * rank + 1], "cut": [2 * rank, 2 * rank + 1],
            "gathered": [[0, 7.5], [1, 7.5], [2, 7.5], [3, 7.5]], "any": [True, False, True],
            "json": [{"rank": other, "text": "ü" * other} for other in range(4)], "told": ["first"]}


@pytest.mark.parametrize(("failing", "said"), [
    ([0, 1, 2], "0 lacks a file"), ([0, 2], "0 lacks a file"), ([1, 2], "process 2 of 3: 1 lacks a file")])
def test_what_fails_on_one_ends_all_and_is_said_once(processes: Any, failing: list[int], said: str) -> None:
    code = r"""
from bricscli.errors import DataError
with world.together():
    if world.rank in job["failing"]:
        raise DataError(f"{world.rank} lacks a file")
"""
    codes, words, _ = processes(3, code, failing=failing)
    assert codes == [3, 3, 3] and words == [said, "", ""]


def test_only_the_first_speaks(processes: Any) -> None:
    code = r"""
result["silent"] = [getattr(stream, "name", "") == os.devnull for stream in (sys.stdout, sys.stderr)]
"""
    assert [result["silent"] for result in processes.good(2, code)] == [[False, False], [True, True]]


def test_nothing_listens_to_other_machines(processes: Any) -> None:
    """What the sockets of a process are bound to, by /proc: 0100007F is 127.0.0.1."""
    code = r"""
files = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
inodes = {os.readlink(file) for file in files if os.path.lexists(file)}
listening = []
for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
    for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
        words = line.split()
        if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
            listening.append(words[1].split(":")[0])
world.any(True)
result["listening"] = listening
"""
    for result in processes.good(2, code):
        assert result["listening"] and set(result["listening"]) == {"0100007F"}


WAIT = r"""
for _ in range(10_000):
    world.any(True)
    time.sleep(0.01)
"""


def test_a_dead_process_ends_the_others(processes: Any) -> None:
    codes, said, _ = processes(3, WAIT, signals=[[1, signal.SIGKILL, 1.0]])
    assert codes == [1, -signal.SIGKILL, 1]
    assert said[0] == ("process 1 of 3: another one is gone, or does not answer. What was saved is kept: run the same "
                       "command again.")


def test_a_stopped_process_ends_the_others_when_their_patience_does(processes: Any) -> None:
    """The server kills the stopped one in the end, as `copies.run_copies` does."""
    codes, said, _ = processes(2, WAIT, signals=[[1, signal.SIGSTOP, 1.0]], patience=2)
    assert codes == [1, -signal.SIGKILL]
    assert "does not answer" in said[0]


@pytest.mark.parametrize(("batch_size", "wanted"), [(1, 1), (2, 2), (12, 4), (7, 1), (8, 8), (48, 8), (20, 4)])
def test_virtual_ranks(batch_size: int, wanted: int) -> None:
    assert virtual_ranks(batch_size) == wanted


@pytest.mark.parametrize(("world", "batch_size", "samples", "said"), [
    (World(size=3), 8, 100, "training.batch_size: a batch of 8 can be computed on 1, 2, 4, 8 processes, not on 3. "),
    (World(size=3, exact=True), 12, 100, "a batch of 12 can be computed in exact mode on 1, 2, 4 processes, not on 3."),
    (World(size=2), 8, 7, "2 processes need a batch of different samples, 8, and there are 7 to train on. Prepare "),
    (World(size=2, exact=True, sharded=True), 8, 8, "--shard: .* Leave out --determinism exact"),
])
def test_what_cannot_be_shared_out(world: World, batch_size: int, samples: int, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        world.check(batch_size, samples)


def test_what_can_be_shared_out() -> None:
    World(size=3).check(12, 12)
    World(size=8, exact=True).check(24, 24)
    ALONE.check(7, 1)


def test_what_run_json_tells() -> None:
    assert World(size=2, exact=True).describe(12) == {
        "determinism": "exact", "virtual_ranks": 4, "processes": 2, "sharded": False}
    assert ALONE.describe(12) == {"determinism": "fast", "processes": 1, "sharded": False}


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    assert in_world()
    for device, said in (("cuda", "there is no `cuda:3` here"), ("cuda:1", "one device for 4 processes")):
        with pytest.raises(BricsError, match=said), join_world(device):
            pass


def test_what_a_launcher_forgot_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "BRICS_RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RecipeError, match="is 2, but MASTER_ADDR, MASTER_PORT is not set"), join_world("cpu"):
        pass
