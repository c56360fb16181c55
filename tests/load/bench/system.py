# SPDX-License-Identifier: MIT
"""The machine: running things, counting their CPU time and memory, describing what they ran on."""

import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import time


class Trouble(Exception):
    """Something could not run; the message is for people."""


def note(text):
    print(f"   {text}", file=sys.stderr, flush=True)


def run(*words, timeout=600, **options):
    """Runs a command that must succeed; its output is in the complaint when it does not."""
    words = [str(word) for word in words]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace", timeout=timeout, **options)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-600:]
        raise Trouble(f"{' '.join(words[:6])}: exit code {done.returncode}: {said}")
    return done.stdout


def read(path, default=""):
    try:
        # A name may hold what Python takes for the end of a line; the kernel escapes "\\n" only.
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            return file.read().strip()
    except OSError:
        return default


# -------------------------------------------------------------------------------- processes

def cpu_seconds(pid):
    """CPU time of a process with all its threads, ended ones too, to the nanosecond; 0 if gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def memory_kib(pid, field):
    """`VmHWM` (peak) or `VmRSS` (now) of a process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", read(f"/proc/{pid}/status"), re.M)
    return int(found.group(1)) if found else 0


def wait_until(what, condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Trouble(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.01)


def end_process(process, seconds=20.0):
    """Waits for one of our children; ends it, by its id, if it does not end by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_pid(pid, seconds=20.0):
    """The same for a process that is not our child."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + seconds
        try:
            os.kill(pid, number)
            while time.monotonic() < end:
                os.kill(pid, 0)
                if read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] == ["Z"]:
                    return
                time.sleep(0.02)
        except ProcessLookupError:
            return


# ----------------------------------------------------------------------------------- mounts

def mounted(place):
    place = str(place)
    lines = read("/proc/self/mountinfo").split("\n")
    return any(line.split()[4] == place for line in lines)


def unmount(place):
    if not mounted(place):
        return
    for attempt in range(50):
        if subprocess.run(["umount", str(place)], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    run("umount", "-l", place)
    note(f"{place} was busy: unmounted lazily")


def flush(*places):
    """Writes back what waits, so that one workload does not pay for another."""
    run("sync", "-f", *places)


def drop_caches(*places):
    flush(*places)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def touch_memory():
    """Has the host give this machine its memory now, rather than to whoever measures first: on a
    virtual machine the first use of a page costs several times the writing of it."""
    available = re.search(r"^MemAvailable:\s+(\d+)", read("/proc/meminfo"), re.M)
    mib = min(int(available.group(1)) // 2048, 12 << 10) if available else 0
    script = f"all = [b'x' * (64 << 20) for _ in range({mib} // 64)]"
    run(sys.executable, "-c", script)


def forget(*places):
    """Has the kernel forget names and inodes that nobody uses."""
    flush(*places)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("2")


# ----------------------------------------------------------------------------------- telling

def have(program):
    return shutil.which(program) is not None


def git(repository, *words):
    done = subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def machine(repository):
    """What every number depends on."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo"), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", read("/proc/meminfo"), re.M)
    fuse = {name: read(f"/sys/module/fuse/parameters/{name}")
            for name in sorted(os.listdir("/sys/module/fuse/parameters"))} \
        if os.path.isdir("/sys/module/fuse/parameters") else {}
    fuse["max_pages_limit"] = read("/proc/sys/fs/fuse/max_pages_limit", "?")
    commit = git(repository, "rev-parse", "--short=10", "HEAD")
    if git(repository, "status", "--porcelain", "--untracked-files=no"):
        commit += " and changes that are not committed"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu.group(1) if cpu else "?",
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.group(1)) / 2**20) if memory else 0,
        "kernel": os.uname().release,
        "halt_poll_ns": read("/sys/module/haltpoll/parameters/guest_halt_poll_ns",
                             "not set (no haltpoll governor)"),
        "fuse": fuse,
        "load_before": read("/proc/loadavg"),
        "commit": commit or "?",
    }
