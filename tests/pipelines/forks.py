"""Jobs in forks of a script that has imported everything, which must hold no threads."""

import os
import traceback
from collections.abc import Callable


def forked(job: Callable[[], object]) -> int:
    """Starts a job in a fork that leads a process group of its own, and exits with 1 when the job fails; the fork's process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    try:
        job()
    except BaseException:  # noqa: BLE001 - the child must end here, whatever it is
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
