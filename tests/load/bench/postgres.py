# SPDX-License-Identifier: MIT
"""A PostgreSQL server with its data in a tree under test, and pgbench beside it."""

import glob
import os
import re
import shutil
import signal
import subprocess

from .peers import NotOffered
from .system import Trouble, cpu_seconds, end_process, read, run, wait_until


def programs():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise NotOffered("PostgreSQL is not installed")
    return os.path.dirname(found[-1])


class Postgres:
    """Runs as the user postgres, listens on a socket in `work` only."""

    def __init__(self, data, work):
        self.data, self.socket = data, os.path.join(work, "pg")
        self.bin = programs()
        self.server = None

    def _as(self, *words):
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words]

    def start(self, scale):
        for directory in (self.data, self.socket):
            shutil.rmtree(directory, ignore_errors=True)
            os.mkdir(directory, 0o700)
            shutil.chown(directory, "postgres", "postgres")
        run(*self._as(f"{self.bin}/initdb", "-D", self.data, "-A", "trust", "--no-sync"))
        self.server = subprocess.Popen(
            self._as(f"{self.bin}/postgres", "-D", self.data, "-k", self.socket,
                     "-c", "listen_addresses=", "-c", "autovacuum=off"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("PostgreSQL", lambda: subprocess.run(
            self._as(f"{self.bin}/pg_isready", "-q", "-h", self.socket)).returncode == 0, 60)
        self._pgbench("-i", "-q", "-s", str(scale), "postgres")

    def _pgbench(self, *words):
        return run(*self._as(f"{self.bin}/pgbench", "-h", self.socket, *words), timeout=900)

    def _cpu(self):
        """The server and its processes, those that ended too."""
        pid = self.server.pid
        children = read(f"/proc/{pid}/task/{pid}/children").split()
        ended = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        ticks = sum(int(word) for word in ended[13:15]) / os.sysconf("SC_CLK_TCK")
        return cpu_seconds(pid) + ticks + sum(cpu_seconds(int(child)) for child in children)

    def benchmark(self, seconds):
        cpu = self._cpu()
        said = self._pgbench("-c", "4", "-j", "2", "-T", str(seconds), "-n", "postgres")
        cpu = self._cpu() - cpu
        rate = re.search(r"tps = ([\d.]+)", said)
        count = re.search(r"transactions actually processed: (\d+)", said)
        if not rate or not count:
            raise Trouble(f"pgbench said no rate: {said[-300:]}")
        return {"seconds": int(count.group(1)) / float(rate.group(1)), "client_cpu": cpu,
                "ops": int(count.group(1)), "bytes": 0}

    def stop(self):
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            end_process(self.server, 60)
            self.server = None
        shutil.rmtree(self.socket, ignore_errors=True)
