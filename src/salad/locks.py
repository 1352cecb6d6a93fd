"""One process at a time: a lock file that the system frees however its holder ends, and disks that know no locks."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from salad.progress import console

Held = Literal["ours", "taken", "no locks"]
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # some network disks answer so


@contextmanager
def held(path: Path, *, wait: bool = True, waiting: Callable[[], str] | None = None) -> Iterator[Held]:
    """Hold the lock file at `path` against other processes: "ours".

    "taken" where another process has it and we do not `wait`; "no locks" where the disk knows none, and who asks goes
    on or not. waiting: what is printed before it waits. Raises OSError where the file cannot be opened or locked.
    """
    lock = FileLock(path)
    got: Held = "ours"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if wait:
            if waiting is not None:
                console.print(waiting(), highlight=False)
            lock.acquire()
        else:
            got = "taken"
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        got = "no locks"
    try:
        yield got
    finally:
        lock.release()
