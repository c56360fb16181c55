# SPDX-License-Identifier: MIT
"""GlusterFS, replica 2, both bricks and the client on this machine, over loopback TCP."""

import glob
import os
import shutil
import socket
import subprocess

from .peers import Contestant, NotOffered
from .system import Trouble, end_pid, end_process, have, mounted, read, run, unmount, wait_until

SOCKETS = "/var/run/gluster/*.socket"


def address():
    """A name of this machine that is not called loopback, which gluster declines for bricks."""
    name = socket.gethostname()
    try:
        if not socket.gethostbyname(name).startswith("127.0.0.1"):
            return name
    except OSError:
        pass
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Nothing is sent: connecting a datagram socket only chooses the source address.
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
    except OSError as why:
        raise NotOffered(f"this machine has no address but loopback: {why}") from why


class Gluster(Contestant):
    about = "GlusterFS replica 2 as packaged by Debian, default settings, over loopback"
    copies = 2
    patience = 4
    below = "brick"

    def __init__(self, name, work):
        super().__init__(name)
        self.home = os.path.join(work, "gluster")
        self.volume = f"mirrorfs-bench-{os.getpid()}"
        self.glusterd = self.client = None
        self.sockets = set()

    def check(self):
        for program in ("glusterd", "gluster", "glusterfs"):
            if not have(program):
                raise NotOffered(f"{program} is not installed")
        address()

    def _gluster(self, *words):
        return run("gluster", "--mode=script", *words, timeout=180)

    def _ours(self):
        """Every process that was started for this volume."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and self.volume in read(f"/proc/{entry}/cmdline"):
                if read(f"/proc/{entry}/comm").startswith("gluster"):
                    found.append(int(entry))
        return found

    def mount(self, primary, replica, mountpoint):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 24007)) == 0:
                raise NotOffered("another glusterd is running")
        shutil.rmtree(self.home, ignore_errors=True)
        os.makedirs(self.home)
        self.sockets = set(glob.glob(SOCKETS))
        settings = os.path.join(self.home, "glusterd.vol")
        with open(settings, "w", encoding="ascii") as file:
            file.write("volume management\n    type mgmt/glusterd\n"
                       f"    option working-directory {self.home}\n"
                       "    option transport-type socket\n"
                       "    option transport.socket.listen-port 24007\nend-volume\n")
        try:
            self.glusterd = self._child("glusterd", "-N", "-f", settings, "-l",
                                        f"{self.home}/glusterd.log", "-p",
                                        f"{self.home}/glusterd.pid")

            def answers():
                if self.glusterd.poll() is not None:
                    raise Trouble("glusterd ended: " + read(f"{self.home}/glusterd.log")[-400:])
                return subprocess.run(["gluster", "--mode=script", "pool", "list"],
                                      capture_output=True).returncode == 0

            wait_until("glusterd", answers, 60)
            here = address()
            bricks = []
            for tree in (primary, replica):
                os.mkdir(f"{tree}/brick")
                bricks.append(f"{here}:{tree}/brick")
            self._gluster("volume", "create", self.volume, "replica", "2", *bricks, "force")
            self._gluster("volume", "start", self.volume)
            self.client = self._child("glusterfs", "-N", f"--volfile-server={here}",
                                      f"--volfile-id={self.volume}", "-l",
                                      f"{self.home}/client.log", mountpoint)
            wait_until("gluster: mount", lambda: mounted(mountpoint), 60)
            self._until_both_bricks(mountpoint, (primary, replica))
        except BaseException:
            self.unmount(mountpoint)
            raise
        self.pids = sorted({*self._ours(), self.glusterd.pid, self.client.pid})
        return mountpoint

    @staticmethod
    def _child(*words):
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True)

    @staticmethod
    def _until_both_bricks(mountpoint, trees):
        """The client connects to its bricks one after the other: replica 2 from when both are."""
        def both():
            name = f"{mountpoint}/both"
            try:
                os.mkdir(name)
                os.rmdir(name)
                os.mkdir(name)
                there = all(os.path.isdir(f"{tree}/brick/both") for tree in trees)
                os.rmdir(name)
                return there
            except OSError:
                return False
        wait_until("gluster: both bricks", both, 60)

    def unmount(self, mountpoint):
        unmount(mountpoint)
        if self.client is not None:
            end_process(self.client)
            self.client = None
        if self.glusterd is not None:
            subprocess.run(["gluster", "--mode=script", "volume", "stop", self.volume, "force"],
                           capture_output=True, timeout=120)
        # Bricks and the self-heal daemon went to the background: by their own ids.
        for pid in self._ours():
            end_pid(pid, 10)
        if self.glusterd is not None:
            self.glusterd.terminate()
            end_process(self.glusterd)
            self.glusterd = None
        shutil.rmtree(f"/var/run/gluster/vols/{self.volume}", ignore_errors=True)
        for left in set(glob.glob(SOCKETS)) - self.sockets:
            os.unlink(left)
        shutil.rmtree(self.home, ignore_errors=True)
