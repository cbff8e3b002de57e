"""Grids on Ray: tasks in actors, here or on a cluster whose nodes all see the store."""

from __future__ import annotations

import importlib
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any

import torch

from secateur.errors import SecateurError, StepError, StoreError, UsageError, told
from secateur.lab.ending import leave
from secateur.lab.execute import Lab
from secateur.lab.plan import Plan
from secateur.lab.tasks import Done, Task, WorkerDied
from secateur.lab.workers import blas, brief, gpus, read_answer, share

ANSWERS, SPEAKS = 5.0, 20.0  # seconds for an address to take a connection; for Ray to tell that it is there
_MEMORY = 10**8  # bytes of Ray's own store: keys and plan tables
# Ray prints to standard output when an actor dies, where --json writes; the second hides that
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class Cluster:
    """Engine: as many actors as there are jobs, each started when it is first needed.

    Args:
        plans: Of the grid; their tables go to the actors.
        lab: Whose store the actors use.
        jobs: How many.
        address: Of a running cluster's head, as ``host:port``; None: a Ray of its own, on this machine.

    Attributes:
        places: How many tasks may run at once.

    Raises:
        UsageError: Ray is not installed or already in use here, or no cluster answers at the address.
    """

    def __init__(self, plans: Sequence[Plan], lab: Lab, jobs: int, address: str | None = None) -> None:
        self.places = jobs
        self._ray = _load()
        if address is not None:
            _knock(address)
        self._address, self._environment = address, blas(jobs)
        self._cpus = max(plan.settings.threads or share(jobs) for plan in plans) if address else 1
        on_gpu = address is not None and any(plan.settings.run().where.type == "cuda" for plan in plans)
        self._seen = gpus(plans, torch.cuda.device_count()) if address is None else 0
        # of each actor: those that ask for none would all take the first; more jobs than GPUs share them
        self._gpus = 1 / math.ceil(jobs / self._seen) if self._seen else float(on_gpu)
        self._root = lab.store.root.absolute()
        self._setup = brief(plans, self._root, lab.checkpoint)
        self._pool = ThreadPoolExecutor(jobs)
        self._all: list[Any] = []
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, task: Task) -> Future[Done]:
        """Hand a task to an idle actor."""
        return self._pool.submit(self._ask, task)

    def _ask(self, task: Task) -> Done:
        try:
            actor = self._ready()
            done = read_answer(self._ray.get(actor.do.remote(asdict(task))))
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(_why(error)) from error
        self._idle.append(actor)  # one that died never comes here
        if isinstance(done, SecateurError):
            raise done
        return done

    def _ready(self) -> Any:
        with self._lock:
            if self._closed:
                raise WorkerDied("the grid was stopped")
            if self._idle:
                return self._idle.pop()
            actor = self._kind.remote([os.path.abspath(folder) for folder in sys.path])
            self._all.append(actor)
        fault = self._ray.get(actor.begin.remote(os.getcwd(), self._mark, self._setup))
        if fault is not None:
            raise (StoreError if fault["of"] == "store" else StepError)(fault["text"])
        return actor

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            # a disk that is not ours may hold a folder of the same name: only this one holds this file
            mark = tempfile.NamedTemporaryFile(dir=self._root, prefix=".seen-")
            self._mark = stack.enter_context(mark).name
            stack.enter_context(_quiet())
            with _put_back():
                self._start(stack)
            self._kind = _actor(self._ray, self._cpus, self._gpus)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        """Start Ray, or join it."""
        common = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "secateur"}
        common["runtime_env"] = {"env_vars": self._environment}
        if self._address is None:
            # the path of a socket in it has at most 107 characters: not every TMPDIR is short enough
            folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
            common |= {
                "address": "local",
                "num_cpus": self.places,
                "include_dashboard": False,
                "object_store_memory": _MEMORY,
                "_temp_dir": stack.enter_context(folder),
            }
            common |= {"num_gpus": self._seen} if self._seen else {}
        else:
            common["address"] = self._address
        stack.callback(self._ray.shutdown)
        try:
            self._ray.init(**common)
        except SystemExit:  # by Ray's own answer to SIGTERM, with another code
            leave()
        except Exception as error:
            where = f'join the cluster at "{self._address}"' if self._address else "start on this machine"
            raise StepError(
                f"expected Ray to {where}, and it could not ({told(error)}), so no step was taken: see that "
                "it is healthy, or take --engine local"
            ) from error
        if self._address is not None:
            self._check_room()

    def _check_room(self) -> None:
        """An actor that fits nowhere would be waited for without end."""
        room = 0
        for node in self._ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            fits = has.get("CPU", 0) // self._cpus
            room += int(min(fits, has.get("GPU", 0)) if self._gpus else fits)
        if room < self.places:
            each = f"{self._cpus} CPU" + "s" * (self._cpus > 1) + " and a GPU" * bool(self._gpus)
            raise UsageError(
                f'expected room for {self.places} jobs of {each} each on the cluster at "{self._address}", '
                f"got room for {room}, and the others would never start: take fewer --jobs or threads"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
        with self._stack:
            for actor in self._all:
                self._ray.kill(actor)
            self._pool.shutdown()


def _actor(ray: Any, cpus: int, gpus: float) -> Any:
    """The class of the actors; one that is made in a function travels as code, so no node has to find it."""

    class Place:
        def __init__(self, path: list[str]) -> None:
            sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]

        def begin(self, folder: str, mark: str, setup: dict[str, Any]) -> dict[str, str] | None:
            node = platform.node()
            missing = [] if os.path.isdir(folder) else [folder]
            missing += [] if os.path.isfile(mark) else [setup["store"]]
            if missing:
                text = (
                    f'expected the node "{node}" to see "{missing[0]}" as the grid does, got another folder '
                    "or none there, and weights go through the store: put it and the working folder on a "
                    "disk that all nodes see under the same path"
                )
                return {"of": "store", "text": text}
            os.chdir(folder)
            try:
                from secateur.allocator import keep_freed_memory
                from secateur.lab.workers import Serving
            except ImportError as error:
                text = (
                    f'expected secateur on the node "{node}", and it cannot be imported there ({error}): '
                    "install the version there that the grid runs with"
                )
                return {"of": "node", "text": text}
            keep_freed_memory()
            self._serving = Serving(setup)
            return None

        def do(self, asked: dict[str, Any]) -> dict[str, Any]:
            return self._serving.do(asked)

    return ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Place)


def _load() -> Any:
    with _quiet():
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise UsageError(
                'expected ray, which "--engine ray" takes its steps with, and it is not installed: run '
                'pip install "secateur[ray]", or take --engine local'
            ) from error
    if ray.is_initialized():
        raise UsageError(
            "expected a process without Ray, which the grid starts and stops itself, got one that uses it: "
            "call ray.shutdown() first, or run the grid in a process of its own"
        )
    return ray


def _knock(address: str) -> None:
    """See that a cluster answers; Ray itself would wait for minutes, and then end this process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(
            f'expected --ray-address as HOST:PORT, such as 10.0.0.1:6379, got "{address}": "ray start '
            '--head" prints it'
        )
    try:
        socket.create_connection((host, int(port)), timeout=ANSWERS).close()
        asked = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
        subprocess.run(asked, timeout=SPEAKS, check=True, capture_output=True, env=os.environ | _settings())
    except (OSError, subprocess.SubprocessError) as error:
        why = (
            getattr(error, "strerror", None) or "something else than Ray, or another version of it, is there"
        )
        if isinstance(error, TimeoutError):
            why = f"no answer within {ANSWERS:.0f} s"
        elif isinstance(error, subprocess.TimeoutExpired):
            why = f"something takes connections there, and did not say within {SPEAKS:.0f} s that it is Ray"
        elif b"AuthenticationError" in (getattr(error, "stderr", None) or b""):
            why = f"it asks for a token, and here is another or none: set {_TOKEN}, and no other {_MODE}"
        raise UsageError(
            f'expected a Ray cluster at "{address}", got none ({why}): see that it runs and can be reached '
            "from here, or leave --ray-address out to start Ray on this machine"
        ) from error


def _why(error: Any) -> str:
    """The last line of Ray's many, to its first stop; of what code of a plan raised, that."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return told(cause)
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[-1].partition(". ")[0].rstrip(".")


def _settings() -> dict[str, str]:
    """What Ray is to read: quiet, and with the user's token where there is one, as "ray start" takes it."""
    own = os.path.expanduser("~/.ray/auth_token")
    has = os.environ.get(_TOKEN) or os.path.isfile(os.environ.get(_TOKEN_PATH, own))
    return _QUIET | ({_MODE: "token"} if has and _MODE not in os.environ else {})


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's settings, for as long as it is imported or started."""
    before = {name: os.environ.get(name) for name in (*_QUIET, _MODE)}  # Ray sets the mode itself, too
    os.environ.update(_settings())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _put_back() -> Iterator[None]:
    """Ray, as it starts, takes the signal that ends a process; afterwards it is what it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
