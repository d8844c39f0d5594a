"""Writing files so that they are either complete or absent, and hashing them.

Everything is first written under a sibling's name, `.brics-tmp-<name>-<pid>`; then: fsync of each file, fsync of the
folder, rename, fsync of the parent. So a killed process leaves the old state or the new one, and leftovers that `sweep`
knows by a prefix that no other program uses.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bricscli.errors import BricsError, DataError

_PREFIX, _PROBE = ".brics-tmp-", "probe."
_TEMPORARY = re.compile(rf"^{re.escape(_PREFIX)}(.+)-(\d+)$")
#: Errors of the disk, not of the program: they become one line, anything else stays a traceback.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}
#: Temporary paths this process is writing now, so that `sweep` leaves them alone.
_active: set[Path] = set()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, replacing what was there in one step; makes the folders above it.

    Raises BricsError where the disk is full or refuses.
    """
    path = Path(path)
    write_files(path.parent, {path.name: data})


def write_files(folder: Path, contents: Mapping[str, bytes], within: Path | None = None) -> None:
    """`write_bytes` of several files, by name, in one folder: one after another, but the folder's fsync is shared.

    `within`: a folder of the same disk for what is half-written, both existing; None: `folder`, which is made.
    """
    for name, data in contents.items():
        path = Path(folder, name)
        _refuse_special(path)
        with _disk_errors(path, _FULL | _REFUSED, needed=len(data)):
            if within is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            with _temporary(path, within) as temporary:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                try:
                    write_all(descriptor, data)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(temporary, path)
    with _disk_errors(folder, _FULL | _REFUSED):
        fsync_folder(folder)


@contextmanager
def new_file(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Yields a temporary name for a file too large for `write_bytes`; it replaces `path` when the block ends well.

    `within`: an existing folder of the same disk for what is half-written; None: beside `path`.

    Raises BricsError where the disk is full or refuses.
    """
    _refuse_special(path)
    with _disk_errors(path, _FULL | _REFUSED), _temporary(path, within) as temporary:
        yield temporary
        _fsync_file(temporary)
        os.replace(temporary, path)
        fsync_folder(Path(os.path.abspath(path)).parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text; line ends as they are."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of JSON, keys in the given order. Raises ValueError for NaN and infinities, which JSON lacks."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    So do folders above it that had to be made. Raises DataError where `path` exists (an empty folder may) or another
    process made it meanwhile, BricsError where the disk is full or refuses.
    """
    path = Path(path)
    _refuse_existing(path)
    sweep(path.parent, path.name)
    with parents_removed_on_failure(path), _temporary(path) as temporary:
        with _disk_errors(path, _FULL | _REFUSED):
            temporary.mkdir(parents=True)
        with _disk_errors(path, _FULL):  # other errors of the block may be about the files that it reads
            yield temporary
        with _disk_errors(path, _FULL | _REFUSED):
            _fsync_tree(temporary)
            _refuse_existing(path)
            try:
                os.rename(temporary, path)
            except OSError:
                _refuse_existing(path)  # made by another process just now
                raise
            fsync_folder(temporary.parent)


def remove_directory(path: Path) -> None:
    """Removes a folder that others may be looking for: first its name, in one step, then its content.

    Raises BricsError where the disk refuses.
    """
    with _disk_errors(path, _FULL | _REFUSED), _temporary(Path(path)) as temporary:
        os.rename(path, temporary)
        fsync_folder(temporary.parent)


def rename_directory(folder: Path, path: Path) -> None:
    """Gives a finished folder of the same disk, and all that is in it, its name, in one step.

    Raises DataError where `path` exists (an empty folder may), BricsError where the disk is full or refuses.
    """
    with _disk_errors(path, _FULL | _REFUSED):
        _fsync_tree(folder)
        _refuse_existing(path)
        os.rename(folder, path)
        fsync_folder(Path(os.path.abspath(path)).parent)


def check_space(path: Path, needed: int) -> None:
    """Raises BricsError where the disk of `path`, which need not exist, has fewer than `needed` bytes left."""
    free = shutil.disk_usage(_nearest(path)).free
    if free < needed:
        raise BricsError(f"{path}: about {show_bytes(needed)} are needed there, {show_bytes(free)} are free. Make room "
                         "there, or choose another --out.")


def check_writable(folder: Path) -> None:
    """Raises DataError unless files can be made in `folder`, or in the nearest folder above it that exists.

    It makes a file and removes it, since permissions alone say little (root, read-only mounts). Nothing stays behind.
    """
    folder = Path(folder)
    try:
        place = _nearest(folder)
        if not place.is_dir():
            raise DataError(f"{folder}: cannot be written ({place} is not a folder). Choose another folder.")
        sweep(place, _PROBE)
        # In containers that share a disk, processes have equal ids.
        probe = place / f"{_PREFIX}{_PROBE}{secrets.token_hex(8)}-{os.getpid()}"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        probe.unlink(missing_ok=True)  # another machine's `sweep` may have come first
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}). Choose another folder.") from None


def sweep(folder: Path, name: str | None = None) -> None:
    """Removes what killed processes left in `folder`, all or only for `name`: our temporary names of dead processes."""
    if not Path(folder).is_dir():
        return
    for entry in sorted(Path(folder).iterdir()):
        match = _TEMPORARY.match(entry.name)
        if not match or (name not in (None, match[1]) and not (name == _PROBE and match[1].startswith(_PROBE))):
            continue
        if not _in_use(entry, int(match[2])):
            _discard(entry)


def write_all(descriptor: int, data: bytes) -> None:
    """os.write until all of `data` is written: one call may take only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def fsync_folder(folder: Path) -> None:
    """Makes names made, changed or removed in `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """What is free where `folder` is, or would be made."""
    return shutil.disk_usage(_nearest(Path(folder))).free


def show_bytes(count: int) -> str:
    """1234567 -> `1.2 MB`."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _nearest(path: Path) -> Path:
    """`path`, or the nearest thing above it that exists."""
    path = Path(os.path.abspath(path))
    while True:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            path = path.parent
        else:
            return path


@contextmanager
def _temporary(path: Path, within: Path | None = None) -> Iterator[Path]:
    """A free sibling name for `path`, or one `within` a folder; what still has that name at the end is removed."""
    path = Path(os.path.abspath(path))
    temporary = Path(os.path.abspath(within or path.parent)) / f"{_PREFIX}{path.name}-{os.getpid()}"
    _discard(temporary)  # of a dead process that had our id: ids are small in containers
    _active.add(temporary)
    try:
        yield temporary
    finally:
        _discard(temporary)
        _active.discard(temporary)


@contextmanager
def parents_removed_on_failure(path: Path) -> Iterator[None]:
    """Where the block fails, folders above `path` that were missing go again, as far as they are empty."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # not there, or in use by now
                folder.rmdir()
        raise


def _discard(path: Path) -> None:
    """Removes what is there, as far as that goes: `sweep` tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _refuse_special(path: Path) -> None:
    """A device, a pipe or a socket must not be replaced by a file."""
    with suppress(OSError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise DataError(f"{path}: is no ordinary file. Choose another name.")


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path) and not (path.is_dir() and not path.is_symlink() and not any(path.iterdir())):
        raise DataError(f"{path}: already exists. Choose another name, or delete it.")


def _fsync_tree(folder: Path) -> None:
    for current, _, names in os.walk(folder, topdown=False):
        for name in names:
            _fsync_file(Path(current, name))
        fsync_folder(Path(current))


def _fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_use(path: Path, pid: int) -> bool:
    if pid == os.getpid():
        return path.absolute() in _active
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextmanager
def _disk_errors(path: Path, numbers: set[int], needed: int | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
        raise disk_error(path, error, needed) from error


def disk_error(path: Path, error: OSError, needed: int | None = None) -> BricsError:
    """The one line for a write that failed: what was needed, where known, what is free, what to do."""
    reason = error.strerror or str(error)
    path = Path(*(_TEMPORARY.sub(r"\1", part) for part in path.parts))  # people know the final name
    if error.errno not in _FULL:
        return BricsError(f"{path}: could not be written: {reason}. See to that, then run the command again.")
    free = f"{show_bytes(free_bytes(path.parent))} free"
    sizes = free if needed is None else f"{show_bytes(needed)} needed, {free}"
    return BricsError(f"{path}: could not be written: {reason} ({sizes}). Make room there, then run the command again.")
