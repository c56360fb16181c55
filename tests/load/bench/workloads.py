# SPDX-License-Identifier: MIT
"""The workloads, done and timed: each row once on one mounted contestant."""

import json
import os
import re
import resource
import sqlite3
import subprocess
import time

from . import rows
from .peers import NotOffered
from .postgres import Postgres
from .system import Trouble, drop_caches, run


# How long names and attributes stay valid in the peers' mounts, and a little.
REST = 1.1


class Fleet:
    """Load generator processes that work at the same time, each in a directory of its own."""

    def __init__(self, program, count, trees):
        self.processes = []
        for i in range(count):
            words = [program, str(count * 100 + i), *trees]
            self.processes.append(subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, bufsize=1))

    def _answer(self, process):
        line = process.stdout.readline()
        if not line:
            raise Trouble(process.stderr.read().strip() or "the load generator ended")
        return line

    def _tell(self, line):
        for process in self.processes:
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except BrokenPipeError:
                self._answer(process)

    def prepare(self, words):
        self._tell(words + "\n")
        for process in self.processes:
            self._answer(process)

    def go(self):
        self._tell("go\n")
        return [json.loads(self._answer(process)) for process in self.processes]

    def close(self):
        for process in self.processes:
            process.kill()
            process.communicate()
        self.processes = []


class Site:
    """One contestant, mounted: `top` is where its files are written to; `trees` are what it keeps
    them in. A program that keeps both copies itself writes to both."""

    def __init__(self, contestant, top, trees, ground, sources, sizes, program, work):
        second = trees[1] if contestant.dual else None
        replica = trees[1] if contestant.copies == 2 else None
        self.contestant, self.top, self.second = contestant, top, second
        self.ground, self.sources, self.program, self.work = ground, sources, program, work
        self.sizes = dict(sizes, quarter=sizes["total"] // 4)
        for amount in ("ops", "synced", "files", "transactions"):
            self.sizes[amount] //= contestant.patience
        self.fleets, self.done = {}, set()
        self.replica = replica
        self.trees = [top] + ([second] if second else [])

    def close(self):
        for fleet in self.fleets.values():
            fleet.close()
        self.fleets = {}

    # ------------------------------------------------------------------------------ measuring

    def measure(self, row):
        """One sample of a row."""
        for need in row.needs:
            if need not in self.done:
                self._load(rows.BY_NAME[need])()
        body = self._load(row) if row.load else getattr(self, "_" + row.name.replace("-", "_"))()
        if row.settled:
            self.contestant.settle(self.top)
        if row.cold:
            drop_caches(*self.ground.places)
        else:
            self.ground.flush()
        if row.rested:
            time.sleep(REST)
        self._settle(1.0)
        daemon = self.contestant.cpu()
        sample = body()
        trailing = self._settle(self.contestant.drains)
        sample["daemon_cpu"] = self.contestant.cpu() - daemon
        sample["trailing"] = trailing
        return sample

    def _settle(self, limit):
        """Waits until the daemon has nothing more to do; how long that was."""
        began = time.monotonic()
        last, since = self.contestant.cpu(), began
        while self.contestant.pids and time.monotonic() - began < limit:
            time.sleep(0.005)
            now = self.contestant.cpu()
            if now - last > 100e-6:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > 0.02:
                break
        return since - began

    def _load(self, row):
        procs = row.procs
        self.done.add(row.name)
        if procs not in self.fleets:
            self.fleets[procs] = Fleet(self.program, procs, self.trees)
        fleet = self.fleets[procs]
        settings = dict(self.sizes, files=max(10, self.sizes["files"] // procs))
        # The rest stays, to be compared when all is done.
        settings["most"] = settings["files"] * 9 // 10
        words = row.load.format(**settings)
        try:
            fleet.prepare(words)
        except Trouble:
            self.fleets.pop(procs).close()
            raise

        def body():
            try:
                answers = fleet.go()
            except Trouble:
                self.fleets.pop(procs).close()
                raise
            began = min(a["began_ns"] for a in answers)
            ended = max(a["ended_ns"] for a in answers)
            return {"seconds": (ended - began) / 1e9,
                    "client_cpu": sum(a["cpu_ns"] for a in answers) / 1e9,
                    "ops": sum(a["ops"] for a in answers),
                    "bytes": sum(a["bytes"] for a in answers)}

        return body

    def _commands(self, *commands, ops=1, cwd=None):
        """Times commands, one after the other."""
        def body():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            for words in commands:
                self._quietly(words, cwd)
            seconds = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return {"seconds": seconds, "client_cpu": cpu, "ops": ops, "bytes": 0}
        return body

    @staticmethod
    def _quietly(words, cwd=None):
        done = subprocess.run([str(w) for w in words], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, cwd=cwd, timeout=1800)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise Trouble(f"{words[0]}: exit code {done.returncode}: {said}")

    # ------------------------------------------------------------------------------ the trees

    def _need(self, name):
        """Trees that an earlier row would have left, if it was not chosen."""
        for tree in self.trees:
            if name == "tree" and not os.path.exists(f"{tree}/tree"):
                run("tar", "-xf", self.sources.tar, "-C", tree)
            if name == "copy" and not os.path.exists(f"{tree}/copy"):
                run("cp", "-a", f"{tree}/tree", f"{tree}/copy")
            if name == "clone" and not os.path.exists(f"{tree}/clone"):
                run("git", "clone", "-q", self.sources.repository, f"{tree}/clone")

    def _untar(self):
        return self._commands(*[("tar", "-xf", self.sources.tar, "-C", t) for t in self.trees],
                              ops=self.sources.files)

    def _on_tree(self, *words, warm=True):
        self._need("tree")
        words = [word.replace("{tree}", f"{self.top}/tree") for word in words]
        if warm:
            self._quietly(words)
        return self._commands(words, ops=self.sources.files)

    def _find(self):
        # -newer asks for the attributes of each.
        return self._on_tree("find", "{tree}", "-newer", self.sources.tar)

    def _ls_lR(self):
        return self._on_tree("ls", "-lR", "{tree}")

    def _ls_lR_cold(self):
        return self._on_tree("ls", "-lR", "{tree}", warm=False)

    def _grep(self):
        return self._on_tree("grep", "-rc", "-e", "previous table", "{tree}")

    def _grep_cold(self):
        return self._on_tree("grep", "-rc", "-e", "previous table", "{tree}", warm=False)

    def _cp_a(self):
        self._need("tree")
        return self._commands(*[("cp", "-a", f"{t}/tree", f"{t}/copy") for t in self.trees],
                              ops=self.sources.files)

    def _rm_rf(self):
        self._need("tree")
        self._need("copy")
        return self._commands(*[("rm", "-rf", f"{t}/copy") for t in self.trees],
                              ops=self.sources.files)

    def _then_copied(self, command, what, cwd=None, **options):
        """A program that makes something once and then writes it down a second time."""
        commands = [command]
        if self.second:
            commands.append(("cp", "-a", f"{self.top}/{what}", f"{self.second}/{what}-made"))
        return self._commands(*commands, cwd=cwd, **options)

    def _git_clone(self):
        return self._then_copied(("git", "clone", "-q", self.sources.repository,
                                  f"{self.top}/clone"), "clone", ops=self.sources.files)

    def _git_status(self):
        self._need("clone")
        words = ["git", "-C", f"{self.top}/clone", "status", "--porcelain"]
        # git reads every file whose time is not before the index's: let it write a later index.
        time.sleep(REST)
        self._quietly(["git", "-C", f"{self.top}/clone", "update-index", "-q", "--refresh"])
        self._quietly(words)
        return self._commands(words, ops=self.sources.files)

    def _build(self):
        run("cp", "-a", self.sources.program, f"{self.top}/program")
        return self._then_copied(("make", "-s", "-j2"), "program", cwd=f"{self.top}/program",
                                 ops=self.sizes["program"])

    # -------------------------------------------------------------------------- the databases

    def _sqlite(self, journal):
        databases = []
        for tree in self.trees:
            database = sqlite3.connect(f"{tree}/{journal}.db", isolation_level=None)
            database.execute(f"pragma journal_mode={journal}")
            database.execute("pragma synchronous=full")
            database.execute("create table t (n integer primary key, v text)")
            databases.append(database)
        count = self.sizes["transactions"]

        def body():
            cpu, began = time.process_time(), time.perf_counter()
            for i in range(count):
                for database in databases:
                    database.execute("begin immediate")
                    database.execute("insert into t values (?, ?)", (i, "v" * 100))
                    database.execute("commit")
            seconds = time.perf_counter() - began
            cpu = time.process_time() - cpu
            for database in databases:
                if database.execute("select count(*) from t").fetchone()[0] != count:
                    raise Trouble("SQLite lost transactions")
                database.close()
            return {"seconds": seconds, "client_cpu": cpu, "ops": count, "bytes": 0}

        return body

    def _sqlite_wal(self):
        return self._sqlite("wal")

    def _sqlite_rollback(self):
        return self._sqlite("delete")

    def _pgbench(self):
        if self.contestant.root_only:
            raise NotOffered("what other users create belongs to root")
        server = Postgres(f"{self.top}/postgres", self.work)
        try:
            server.start(self.sizes["tree"] // 1000 + 1)
        except BaseException:
            server.stop()
            raise

        def body():
            try:
                return server.benchmark(self.sizes["seconds"])
            finally:
                server.stop()

        return body

    # ----------------------------------------------------------------------------- and others

    def _dbench(self):
        os.makedirs(f"{self.top}/dbench", exist_ok=True)
        seconds = self.sizes["seconds"]

        def body():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            said = run("dbench", "-D", f"{self.top}/dbench", "-t", seconds, 4,
                       timeout=seconds * 4 + 120)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            rate = re.search(r"Throughput ([\d.]+) MB/sec", said)
            if not rate:
                raise Trouble(f"dbench said no throughput: {said[-200:]}")
            moved = float(rate.group(1)) * 1e6 * seconds
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            # An operation is a mebibyte here: it does as much as it can in the time.
            return {"seconds": seconds, "client_cpu": cpu, "ops": max(1, int(moved) >> 20),
                    "bytes": moved}

        return body

    def _lag(self):
        """From close to when the other tree's file has the new bytes."""
        there = os.path.join(self.replica, self.contestant.below, "lag")
        here = os.path.join(self.top, "lag")
        count = self.sizes["lags"]

        def body():
            waited = 0.0
            for i in range(count + 1):
                content = (f"{i:08}" * 8192).encode()
                with open(here, "wb") as file:
                    file.write(content)
                began = time.perf_counter()
                while True:
                    try:
                        with open(there, "rb") as file:
                            if file.read() == content:
                                break
                    except OSError:
                        pass
                    if time.perf_counter() - began > 60:
                        raise Trouble("the replica has not got it after 60 s")
                # The first time the file is new.
                waited += (time.perf_counter() - began) if i else 0.0
            return {"seconds": waited, "client_cpu": 0.0, "ops": count, "bytes": count << 16}

        return body
