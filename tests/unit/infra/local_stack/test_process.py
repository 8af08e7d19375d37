"""A server has ended when nothing holds its port any more, not when its first thread has."""

import subprocess
import sys
import time

import psutil

from tradesaga.infra.local_stack.ports import free_port, is_taken
from tradesaga.infra.local_stack.process import identify, is_alive, wait_for_end

_FIRST_THREAD_ENDS = """
import ctypes, socket, sys, threading, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Thread(target=time.sleep, args=(60,)).start()
print("listening", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended_still_runs() -> None:
    """Linux calls such a process a zombie, as it does one that was killed and whose threads have not all ended."""
    port = free_port()
    child = subprocess.Popen([sys.executable, "-c", _FIRST_THREAD_ENDS, str(port)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"listening\n"
    process = identify(child.pid)
    until = time.monotonic() + 10
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)

    assert is_taken(port)
    assert is_alive(process)
    child.kill()
    assert wait_for_end(process, 10)
    assert not is_taken(port)
    child.stdout.close()
    child.wait()
