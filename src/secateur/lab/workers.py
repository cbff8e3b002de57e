"""Workers: tasks in processes of their own. Lines of JSON go between them; weights go through the store."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from secateur import errors
from secateur.allocator import keep_freed_memory
from secateur.errors import SecateurError
from secateur.lab.ending import ending
from secateur.lab.execute import Lab
from secateur.lab.plan import Plan
from secateur.lab.read import read_plan
from secateur.lab.store import Store
from secateur.lab.tasks import Done, Task, WorkerDied, perform
from secateur.run import Progress

# the folders where code lies come first, before anything of ours is imported
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from secateur.lab.workers import serve; serve()"
)
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SEEN = "CUDA_VISIBLE_DEVICES"
PATIENCE = 10.0  # seconds for a worker to put its things away when it is stopped


def share(jobs: int) -> int:
    """Threads for each of some workers, of those that torch would use here."""
    return max(1, torch.get_num_threads() // jobs)


def blas(jobs: int) -> dict[str, str]:
    """The environment in which each of some workers has its share of threads from the start."""
    return dict.fromkeys(_BLAS, str(share(jobs)))


def gpus(plans: Sequence[Plan], here: int) -> int:
    """How many of the GPUs here jobs can be spread over; 0 where a plan names one by its number."""
    devices = {plan.settings.device for plan in plans}
    return 0 if devices == {"cpu"} or any(":" in device for device in devices) else here


def one_gpu(place: int, seen: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which one of some workers has a GPU of its own, for as long as there are enough.

    Args:
        place: Of the worker among those that live, from 0.
        seen: How many GPUs this process sees.
        environment: Of this process, which may see a part of them, by other numbers or names.

    Returns:
        Variables to set; none where there is nothing to choose.
    """
    if seen < 2:
        return {}
    names = environment.get(_SEEN, "").split(",")
    i = place % seen
    return {_SEEN: names[i].strip() if _SEEN in environment else str(i)}


def brief(plans: Sequence[Plan], store: Path, checkpoint: float) -> dict[str, Any]:
    """What a worker must know before its first task, JSON-like.

    Args:
        plans: Of the grid.
        store: Its folder of results, as the worker is to call it.
        checkpoint: Seconds between checkpoints of a training.

    Returns:
        What ``Serving`` is made from.
    """
    return {
        "store": str(store),
        "plans": [plan.table for plan in plans],
        "threads": [plan.settings.threads for plan in plans],
        "checkpoint": checkpoint,
    }


def read_answer(told: dict[str, Any]) -> Done | SecateurError:
    """What ``Serving.do`` told, as the grid knows it."""
    return _raised(**told) if "error" in told else Done(key=told["key"], taken=tuple(told["taken"]))


class Workers:
    """Engine: as many processes as there are jobs, each started when it is first needed.

    Args:
        plans: Of the grid; their tables go to the workers.
        lab: Whose store the workers use, and where progress shows.
        jobs: How many.

    Attributes:
        places: How many tasks may run at once.
    """

    def __init__(self, plans: Sequence[Plan], lab: Lab, jobs: int) -> None:
        self.places = jobs
        self._progress = lab.progress
        self._setup = brief(plans, lab.store.root, lab.checkpoint)
        self._environment = os.environ | blas(jobs)
        self._gpus = gpus(plans, torch.cuda.device_count())
        self._pool = ThreadPoolExecutor(jobs)
        self._all: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, task: Task) -> Future[Done]:
        """Hand a task to an idle worker."""
        return self._pool.submit(self._ask, task)

    def _ask(self, task: Task) -> Done:
        worker = self._ready()
        done = worker.ask(task, self._progress)
        self._idle.append(worker)  # one that died never comes here
        if isinstance(done, SecateurError):
            raise done
        return done

    def _ready(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise WorkerDied("the grid was stopped")
            if self._idle:
                return self._idle.pop()
            living = {worker.place for worker in self._all if worker.process.poll() is None}
            place = min(set(range(self.places)) - living, default=0)  # that of one that died is free
            own = one_gpu(place, self._gpus, self._environment)
            self._all.append(_Worker(place, self._setup, self._environment | own))
            return self._all[-1]

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
        try:
            for worker in self._all:
                worker.process.terminate()
            until = time.monotonic() + PATIENCE
            for worker in self._all:
                worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:  # also where a second Ctrl-C falls into the waiting
            for worker in self._all:
                worker.process.kill()
            self._pool.shutdown()
            for worker in self._all:
                with suppress(BrokenPipeError), worker.process:
                    pass  # closes its pipes


class _Worker:
    """One process, as seen from the grid."""

    def __init__(self, place: int, setup: dict[str, Any], environment: dict[str, str]) -> None:
        self.place = place
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            process_group=0,  # the terminal's Ctrl-C is for the grid, which stops its workers in order
        )
        self._setup: dict[str, Any] | None = setup

    def ask(self, task: Task, progress: Progress) -> Done | SecateurError:
        """Have a task done; show how far it comes."""
        shown = _Shown(progress)
        try:
            if self._setup is not None:
                self._send(self._setup)
                self._setup = None
            self._send(asdict(task))
            assert self.process.stdout is not None
            for line in self.process.stdout:
                if not line.endswith("\n"):  # it was killed in the middle of it
                    break
                told = json.loads(line)
                if "key" in told or "error" in told:
                    return read_answer(told)
                shown.hear(told)
        except BrokenPipeError:
            pass
        finally:
            shown.close()
        raise WorkerDied(_way(self.process.wait()))

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()


class _Shown:
    """The bars of a worker, shown by the grid; the last that was opened is the one that moves and closes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: list[tuple[AbstractContextManager[Any], Callable[[int], None]]] = []

    def hear(self, told: dict[str, Any]) -> None:
        if "bar" in told:
            bar = self._progress.bar(told["bar"], told["total"])
            self._open.append((bar, bar.__enter__()))
        elif told["advance"] is None:
            self._open.pop()[0].__exit__(None, None, None)
        else:
            self._open[-1][1](told["advance"])

    def close(self) -> None:
        while self._open:
            self._open.pop()[0].__exit__(None, None, None)


def _way(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


# --- in the worker ---


def serve() -> None:
    """Be a worker: read tasks from standard input, do them, until it closes."""
    # nothing that a plan's own code prints may get between the answers
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    keep_freed_memory()
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    try:
        with ending():
            _serve(lines, answers)
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # the listening thread would not let Python end by itself


def _listen(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(1)  # the grid is gone: whatever it waited for, nobody does now


def _serve(lines: queue.SimpleQueue[str], answers: IO[str]) -> None:
    def answer(**told: Any) -> None:
        answers.write(json.dumps(told) + "\n")

    serving = Serving(json.loads(lines.get()), _Told(answer))
    while True:
        answer(**serving.do(json.loads(lines.get())))


class Serving:
    """Does tasks as they come, one after the other, with one lab.

    Args:
        setup: From ``brief``.
        progress: Where to show how far a step has come.
    """

    def __init__(self, setup: dict[str, Any], progress: Progress | None = None) -> None:
        self._plans, self._threads = setup["plans"], setup["threads"]
        self._lab = Lab(Store(Path(setup["store"])), progress, setup["checkpoint"])

    def do(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do a task.

        Args:
            asked: The fields of a ``Task``.

        Returns:
            JSON-like, for ``read_answer``: what it left, or what it raised.
        """
        task = Task(**asked)
        try:
            plan = read_plan(self._plans[task.run - 1])
            plan = replace(plan, settings=replace(plan.settings, threads=self._threads[task.run - 1]))
            done = perform(task, plan, self._lab)
        except SecateurError as error:
            return {"error": _kind(error), "text": str(error), "notes": getattr(error, "__notes__", [])}
        return {"key": done.key, "taken": done.taken}


class _Told:
    """Progress that is told to the grid, at most ten times a second."""

    def __init__(self, answer: Callable[..., None]) -> None:
        self._answer = answer

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        waiting, last = 0, time.monotonic()

        def advance(done: int) -> None:
            nonlocal waiting, last
            waiting += done
            if time.monotonic() > last + 0.1:
                self._answer(advance=waiting)
                waiting, last = 0, time.monotonic()

        self._answer(bar=label, total=total)
        try:
            yield advance
        finally:
            self._answer(advance=waiting)
            self._answer(advance=None)

    def bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A bar that is drawn elsewhere."""
        return self._bar(label, total)


def _kind(error: SecateurError) -> str:
    """The nearest kind that the grid knows too; outside code may have made its own."""
    return next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == errors.__name__)


def _raised(error: str, text: str, notes: list[str]) -> SecateurError:
    cls: type[SecateurError] = getattr(errors, error)
    made = cls.__new__(cls, text)  # without __init__: the text is whole already
    for note in notes:
        made.add_note(note)
    return made
