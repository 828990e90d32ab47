"""Runs ``ushield`` in a fork of a process that has already imported the library: a run does not start an interpreter.

For tables that run hundreds of commands. The command modules, which select a language at import, are imported in the
child. All other tests of a command run the installed command.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from tests.cli.world import TIMEOUT_S, USHIELD, Done

_SERVER: Final = """
import gc, json, os, socket, sys
import click
import ushield_hw.certificates.renewal, ushield_hw.backend.pkcs11.engine, ushield_hw.token.discovery
import ushield_hw.signing.order, ushield_hw.crypto.private_key, ushield_hw.verifier
from cryptography import x509

def child(asked, out, err):
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 256)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv[:] = asked["argv"]
    if asked["program"]:
        exec(asked["program"], {"__name__": "__main__"})
    else:
        from ushield_hw.cli import main
        main()

def minder(asked, reply, out, err):
    pid = os.fork()
    if not pid:
        return child(asked, out, err)
    reply = socket.socket(fileno=reply)
    reply.send(b"%d " % pid)
    reply.send(b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)

def serve(channel):
    while True:
        asked, files, _, _ = socket.recv_fds(channel, 1 << 18, 3)
        if not asked:
            return
        if not os.fork():
            return minder(json.loads(asked), *files)
        for file in files:
            os.close(file)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

gc.collect()
gc.freeze()  # else the first collection of each child copies everything
serve(socket.socket(fileno=int(sys.argv[1])))
"""


def run(words: Sequence[str], cwd: Path, env: Mapping[str, str], program: str | None = None) -> Done:
    """Run ``ushield``, or another Python program, in a new session without input.

    Args:
        words: the command's arguments.
        cwd: the working directory.
        env: its environment; the locale and the interpreter's own variables are those of the first run.
        program: the program to run instead of ``ushield``.
    """
    asked = {"argv": ["-c" if program else USHIELD, *words], "cwd": str(cwd), "env": dict(env), "program": program}
    mine, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, mine:
        with theirs:
            files = [theirs.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(_server(env["PATH"], env["LANG"]), [json.dumps(asked).encode()], files)
        mine.settimeout(TIMEOUT_S)
        code = _code(mine)
        out.seek(0)
        err.seek(0)
        return Done(code, out.read().decode(), err.read().decode())


def _code(reply: socket.socket) -> int:
    told = b""
    try:
        while not told.endswith(b"\n"):
            part = reply.recv(64)
            assert part, "the process that forks has ended"
            told += part
    except TimeoutError:
        os.kill(int(told.split()[0]), 9)
        raise
    return int(told.split()[1])


@cache
def _server(path: str, lang: str) -> socket.socket:
    """Start the fork server, once per test process and locale; return the connection to it."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(theirs.fileno())],
            env={"PATH": path, "LANG": lang},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        mine.close()
        process.wait(TIMEOUT_S)

    atexit.register(end)
    return mine
