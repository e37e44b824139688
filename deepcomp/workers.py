"""Tasks for whatever processes joblib has: results as they come, lost workers, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from .part_tasks import naming

_MAX_LOSSES = 3  # one after the other without a task done: more would not help


class Task(NamedTuple):
    """What one worker does.

    Attributes
    ----------
    what : str
        Which tensors, for messages.
    n_weights : float
        For the progress bar.
    function : callable
        Of a module.
    arguments : tuple
    """

    what: str
    n_weights: float
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workers:
    """Run tasks with joblib: in this process, in others, or on a cluster.

    Parameters
    ----------
    n_jobs : int or None
        As of `joblib.Parallel`; None for what `joblib.parallel_config` says.
    n_weights : float
        Of all tasks together.

    Raises
    ------
    ImportError
        If joblib is wanted and not installed.
    """

    def __init__(self, n_jobs: int | None, n_weights: float) -> None:
        from tqdm import tqdm

        self._parallel = _parallel(n_jobs)
        options = {"unit": "w", "unit_scale": True, "delay": 1, "disable": None}
        self._bar = tqdm(total=n_weights, desc="compress", **options)

    def __enter__(self) -> Workers:
        if self._parallel is not None:
            self._parallel.__enter__()  # workers stay from round to round: Ray's take seconds
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
        if self._parallel is not None:
            self._parallel.__exit__(*error)

    def skip(self, n_weights: float) -> None:
        """Leave out what was done before: the time that is left is that of the rest."""
        self._bar.total -= n_weights

    def run(self, tasks: Sequence[Task]) -> list[Any]:
        """Return the results of tasks, in their order.

        A worker that dies is replaced, and its tasks are done again.

        Raises
        ------
        RuntimeError
            If workers die again and again. The message names the tensors.
        """
        results: dict[int, Any] = {}
        n_losses = 0
        while len(results) < len(tasks):
            rest = [i for i in range(len(tasks)) if i not in results]
            rest.sort(key=lambda i: -tasks[i].n_weights)  # else a long one may be left at the end
            n_before = len(results)
            try:
                for i, result in self._results(tasks, rest):
                    results[i] = result
                    self._bar.update(tasks[i].n_weights)
            except Exception as error:
                if not _is_loss(error):
                    raise
                n_losses = 0 if len(results) > n_before else n_losses + 1
                if n_losses == _MAX_LOSSES:
                    left = [tasks[i].what for i in rest if i not in results]
                    raise RuntimeError(
                        f"a worker died {n_losses} times (not enough memory?); not done: "
                        f"{', '.join(left[:3])}{' ...' if len(left) > 3 else ''}"
                    ) from error
        return [results[i] for i in range(len(tasks))]

    def _results(self, tasks: Sequence[Task], which: list[int]) -> Iterator[tuple[int, Any]]:
        if self._parallel is None:
            yield from ((i, naming(tasks[i].what, *_call(tasks[i]))) for i in which)
            return
        from joblib import delayed

        calls = (delayed(_numbered)(i, tasks[i].what, *_call(tasks[i])) for i in which)
        yield from self._parallel(calls)


def _call(task: Task) -> tuple[Any, ...]:
    return (task.function, *task.arguments)


def _numbered(i: int, what: str, function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    return i, naming(what, function, *arguments)


def _parallel(n_jobs: int | None) -> Any:
    try:
        from joblib import Parallel
    except ImportError:
        if n_jobs in (None, 1):
            return None
        raise ImportError(
            f"n_jobs={n_jobs} needs joblib: pip install 'deepcomp[parallel]' "
            "(or deepcomp[dask], deepcomp[ray])"
        ) from None
    # one task at a time: after some short ones joblib would hand out several at once, the last of
    # which one worker does while the others wait for the end of the round
    parallel = Parallel(n_jobs=n_jobs, return_as="list", batch_size=1)
    if parallel._backend.supports_return_generator:
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    return parallel


def _is_loss(error: Exception) -> bool:
    """Whether an error says that a worker died: of joblib's own processes, of Dask or of Ray."""
    names = {kind.__name__ for kind in type(error).__mro__}
    lost = {"BrokenProcessPool", "KilledWorker", "CommClosedError", "RayActorError"}
    return bool(names & (lost | {"WorkerCrashedError", "FutureCancelledError"}))
