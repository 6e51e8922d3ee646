"""A Dask cluster: one that is started on this machine, or one that is running; looked over before the work starts.

What this machine's own cluster listens on is 127.0.0.1 only. A Dask scheduler runs whatever code is sent to it: whom it
trusts is its own affair (docs/cluster.md).
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ..engines.cpu.threads import available_threads
from ..errors import Failure, NSTError
from ..optimise import OPTIMIZERS
from ..pictures.files import file_sha256
from ..settings import Run, Settings
from ..weights import GET_COMMAND, find_weights

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
TRIES = 3
PATIENCE = 10.0  # seconds for a scheduler to answer, and for its first worker to be there
MOST_CONNECTIONS = 1 << 16  # calls of one picture's workers, which are all in progress at a time
NEEDED = "--cluster needs Dask: `python -m pip install 'nst_manual[cluster]'`"
QUIET = ("distributed", "tornado", "asyncio")  # beginnings of the names of loggers of what is told here in one sentence


@contextmanager
def opened(settings: Settings, run: Run) -> Iterator[Any]:
    """A client of the cluster that the run chooses, whose workers can do the work."""
    try:
        import dask
        import distributed
    except ImportError:
        raise NSTError(NEEDED) from None
    choice = str(run.cluster)
    with _quiet(), dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        cluster = _started(choice, run.threads) if _is_local(choice) else None
        try:
            client = _connected(distributed, choice if cluster is None else cluster)
            try:
                workers = _found_fit(client, settings)
                threads = sum(worker["nthreads"] for worker in workers.values())
                many = f"{len(workers)} worker{'s' * (len(workers) != 1)}"
                page = f"; its page: {client.dashboard_link}" if _has_page() else ""
                log.info("cluster: %s, %d threads, %s%s", many, threads, client.scheduler.address, page)
                yield client
            finally:
                with suppress(Exception):  # whatever it has to say, the work is over
                    client.close(timeout=2)
        finally:
            if cluster is not None:
                with suppress(Exception):
                    cluster.close(timeout=10)


class WorkerLost(Exception):
    """A worker is gone, and with it its part of the picture; or so is the scheduler."""


def check_search(settings: Settings, run: Run) -> Settings:
    """The settings of one picture's run on a cluster. SciPy's optimiser has all of the picture in one place."""
    if settings.optimizer == "auto":
        settings = replace(settings, optimizer="lbfgs")
    if not OPTIMIZERS[settings.optimizer].on_device:
        raise NSTError("--optimizer l-bfgs-b works in one process: with --cluster, take lbfgs or adam")
    if settings.history_bits != 32 or run.history_on != "memory":
        raise NSTError("--history-bits 16 and --history-on disk are for one process: with --cluster, leave them out")
    if run.max_memory is not None:
        raise NSTError("--max-memory is for one process: with --cluster, take more workers, or smaller tiles by --tile")
    return settings


def gone(client: Any, done: str) -> Failure:
    """What to say where the scheduler no longer answers."""
    return Failure(f"the scheduler at {_address_of(client)} no longer answers: {done}")


def workers_of(client: Any) -> Mapping[str, Any]:
    """What is known of each worker, by its address."""
    found = client.scheduler_info(n_workers=-1)
    if "workers" not in found:
        raise OSError("the scheduler is gone")
    workers: Mapping[str, Any] = found["workers"]
    return workers


def _is_local(choice: str) -> bool:
    return choice.partition(":")[0] == "local" and "://" not in choice


def _started(choice: str, threads: int | None) -> Any:
    """A cluster on this machine: as many workers as asked for, or one for each `threads` cores."""
    from distributed import LocalCluster

    cores = available_threads()
    _, _, number = choice.partition(":")
    count = int(number) if number else max(1, cores // (threads or 1))
    start: Any = LocalCluster
    try:
        return start(
            n_workers=count,
            threads_per_worker=threads or max(1, cores // count),
            host=HOST,
            dashboard_address=f"{HOST}:0",
            worker_dashboard_address=f"{HOST}:0",
            memory_limit=0,  # of Dask's own, which ends workers
            preload=[f"{__package__}.steadfast"],
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise NSTError(
            f"{count} workers can't be started here ({error}): ask for fewer, as by local:2; and a script must start "
            'them below `if __name__ == "__main__":`, for each of them reads it'
        ) from error


def _connected(distributed: Any, choice: Any) -> Any:
    if isinstance(choice, str) and "://" not in choice:
        choice = _address_in(choice)
    client = _client_of(distributed, choice)
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        address = _address_of(client)
        client.close(timeout=2)
        raise NSTError(f"the scheduler at {address} has no workers: start some with `dask worker {address}`") from None
    return client


def _client_of(distributed: Any, choice: Any) -> Any:
    """Dask's client, made in a thread that is left alone if it takes too long: where something else than a scheduler
    listens, Dask may wait for ever, or raise anything."""
    made: SimpleQueue[Any] = SimpleQueue()
    client: Any = distributed.Client.__new__(distributed.Client)

    def make() -> None:
        try:
            client.__init__(choice, set_as_default=False, timeout=PATIENCE, connection_limit=MOST_CONNECTIONS)
            made.put(client)
        except Exception as error:
            client.status = "closed"  # else it tries to close itself when it is forgotten, and complains
            made.put(error)

    threading.Thread(target=make, daemon=True).start()
    try:
        found = made.get(timeout=2 * PATIENCE)
    except Empty:
        found = TimeoutError("no answer")
    if not isinstance(found, Exception):
        return found
    text = " ".join(str(found).split())[:200]
    why = text if text and not isinstance(found, MemoryError) else "what is there is something else"
    raise NSTError(
        f"no Dask scheduler answers at {choice} ({why}): start one with `dask scheduler`, or take --cluster local"
    ) from found


def _address_in(file: str) -> str:
    """The scheduler's address in the file that it wrote."""
    try:
        return str(json.loads(Path(file).read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NSTError(
            f"{file} is not a scheduler's file: give the one that `dask scheduler --scheduler-file FILE` writes"
        ) from error


def _found_fit(client: Any, settings: Settings) -> Mapping[str, Any]:
    """The workers, looked over; again where one goes away meanwhile."""
    for left in reversed(range(TRIES)):
        try:
            return _looked_over(client, settings)
        except (OSError, RuntimeError, TimeoutError) as error:
            if not left:
                raise NSTError(
                    f"the workers of {_address_of(client)} come and go ({error}): look after them"
                ) from error
        time.sleep(PATIENCE / 10)
    raise AssertionError


class Fit:
    """The workers that can do the work: `opened` has looked those over that are there, and later ones are looked over
    as they come."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self.client, self.settings = client, settings
        try:
            self.known = dict.fromkeys(workers_of(client), True)
        except OSError as error:
            raise gone(client, "nothing has been made yet") from error

    def there(self) -> list[str]:
        """The addresses of those who are there now."""
        there = workers_of(self.client)
        for address in there.keys() - self.known.keys():
            with suppress(OSError, RuntimeError, TimeoutError):  # it goes away just now
                self.known[address] = self._fit(address)
        return [address for address in there if self.known.get(address)]

    def _fit(self, address: str) -> bool:
        try:
            _looked_over(self.client, self.settings, [address])
            return True
        except NSTError as error:
            log.warning("cluster: %s; it gets no work", error)
            return False


def _looked_over(client: Any, settings: Settings, only: Sequence[str] | None = None) -> Mapping[str, Any]:
    """The workers. NSTError if one of them, or of `only` these, or the scheduler can't do what is asked of it."""
    versions, own = client.get_versions(), _about()
    hosts = {
        f"the worker {address}": found["host"]
        for address, found in versions["workers"].items()
        if only is None or address in only
    }
    for who, host in {"the scheduler": versions["scheduler"]["host"], **hosts}.items():
        python = ".".join(host["python"].split(".")[:2])
        if python != own["python"]:
            raise NSTError(f"{who} runs Python {python}, and here is {own['python']}: use the same version everywhere")
    known = {"the scheduler": client.run_on_scheduler(_by_value(_about))}
    known |= {f"the worker {address}": found for address, found in client.run(_by_value(_about), workers=only).items()}
    for who, found in known.items():
        if found["version"] != own["version"]:
            has = f"nst_manual {found['version']}" if found["version"] else "no nst_manual"
            raise NSTError(f"{who} has {has}, and here is {own['version']}: install that version there")
    weights = weights_of(settings.weights)
    for address, found in client.run(weights_of, settings.weights, workers=only).items():
        if found != weights:
            has = "no weights" if found is None else "other weights than here"
            raise NSTError(
                f"the worker {address} has {has} for --weights {settings.weights}: install them there, as by "
                f"`{GET_COMMAND}`, or take --weights calibrated"
            )
    return workers_of(client)


def weights_of(choice: str) -> str | None:
    """The checksum of the file that `--weights` means on this machine; None if there is none."""
    try:
        path = find_weights(choice)
    except NSTError:
        return None
    return None if path is None else file_sha256(path)


def _about() -> dict[str, str | None]:
    """Runs where there may be no nst_manual, or another one."""
    import sys

    try:
        from nst_manual import __version__ as version
    except Exception:
        version = None  # type: ignore[assignment]
    return {"version": version, "python": f"{sys.version_info[0]}.{sys.version_info[1]}"}


def _by_value(function: Callable[[], Any]) -> Callable[[], Any]:
    """The function, which is sent as its code: there may be no module of its name where it runs."""
    import types

    return types.FunctionType(function.__code__, {"__builtins__": __builtins__, "__name__": "__main__"})


def _address_of(client: Any) -> str:
    return str(getattr(client.scheduler, "address", None) or "its address")


def _has_page() -> bool:
    from importlib.util import find_spec

    return find_spec("bokeh") is not None


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own messages, tracebacks included, say in many lines what is told in one sentence."""
    known = [*QUIET, *(name for name in logging.root.manager.loggerDict if name.startswith(QUIET))]
    loggers = [logging.getLogger(name) for name in known]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except KeyboardInterrupt:  # what Dask is in the middle of has errors on its way out
        later = threading.Timer(PATIENCE, _restored, (loggers, levels))
        later.daemon = True
        later.start()
        raise
    except BaseException:
        _restored(loggers, levels)
        raise
    _restored(loggers, levels)


def _restored(loggers: Sequence[logging.Logger], levels: Sequence[int]) -> None:
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
