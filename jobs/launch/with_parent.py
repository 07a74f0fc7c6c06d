"""Become a command that is killed when the process that started it ends, however that ends.

    python jobs/launch/with_parent.py PARENT COMMAND [ARGUMENT ...]

PARENT is the id of the process that started it. The command keeps this process's id, and SIGINT
works in it, which Ray blocks in what it starts.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux; elsewhere the command is not bound

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:2]) or len(sys.argv) < 3:
        print(__doc__.strip())
        sys.exit(0 if len(sys.argv) == 2 else 2)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):  # it ended before we could be bound
            sys.exit("the process that started this has ended")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.execvp(sys.argv[2], sys.argv[2:])
