"""Memory: how much there is, how much a training step will need, and a watch over what is used.

The memory model of one step counts, tensor by tensor, what the network keeps for its backward pass. It sizes groups
before step 1; `measured_peak` verifies it, and tests hold it within a factor of 1.5 of the measurement.

Axes: N sequences of one model, O output sessions, T input sessions, P numbers of one model.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vnfleet.core.errors import ResourceError
from vnfleet.model.stockformer import BLOCK_SESSIONS, StockformerConfig, weight_shapes
from vnfleet.training.machine.cards import Precision
from vnfleet.training.machine.cgroups import memory_limit_bytes, memory_room_bytes, read_words

GIB = 1024**3
_FLOAT32 = 4
_STATE_COPIES = 8  # value, gradient, two moments, best epoch, result, moving average, and one that is being copied
_SAFE_SHARE = 0.75  # of what is free: the model errs by up to a third, and the system wants some for itself
_SAMPLE_SECONDS = 0.002

State = Literal["ok", "warn", "over"]


def total_bytes(root: Path = Path("/")) -> int:
    """Return the memory this process may use at most: the machine's, or less under a control group."""
    if sys.platform == "win32":
        return _windows_memory()[0]
    machine = _meminfo(root, "MemTotal")
    if machine is None:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, memory_limit_bytes(root) or machine)


def available_bytes(root: Path = Path("/")) -> int:
    """Return what can be taken now without swapping or being killed, under every control group of this process.

    Where the system does not tell what is free (macOS), half of the machine's memory.
    """
    if sys.platform == "win32":
        return _windows_memory()[1]
    free = _meminfo(root, "MemAvailable")
    if free is None:
        free = total_bytes(root) // 2
    room = memory_room_bytes(root)
    return free if room is None else min(free, room)


def limit_bytes(memory_limit_gib: float, root: Path = Path("/")) -> int:
    """Return the limit to watch: `memory_limit_gib` of [machine]; where that is 0, what we hold and what is free."""
    everything = total_bytes(root)
    if memory_limit_gib:
        return min(everything, round(memory_limit_gib * GIB))
    return min(everything, process_tree_bytes(root=root) + available_bytes(root))


def _meminfo(root: Path, name: str) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of sysinfoapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("free", ctypes.c_uint64),
        ("total_page_file", ctypes.c_uint64),
        ("free_page_file", ctypes.c_uint64),
        ("total_virtual", ctypes.c_uint64),
        ("free_virtual", ctypes.c_uint64),
        ("free_extended", ctypes.c_uint64),
    )


def _windows_memory() -> tuple[int, int]:
    """Return total and free physical memory from GlobalMemoryStatusEx."""
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    library = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 - absent from ctypes elsewhere than on Windows
    if not library.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise ResourceError("Windows does not tell how much memory there is")
    return int(status.total), int(status.free)


def process_tree_bytes(pid: int | None = None, root: Path = Path("/")) -> int:
    """Return the resident memory of a process (this one by default) and all its descendants.

    Pages that processes share, such as one memory-mapped package, count once: the private pages of all plus the
    largest shared part of any. Elsewhere than on Linux only this process is seen, at its peak.
    """
    own = os.getpid() if pid is None else pid
    sizes = [size for one in (own, *_descendants(own, root)) if (size := _resident(one, root)) is not None]
    if not sizes:
        return _own_peak_bytes()
    return sum(private for private, _ in sizes) + max(shared for _, shared in sizes)


def cuda_bytes(device: str = "cuda:0") -> int:
    """Return what torch holds on a GPU, its cache included."""
    return torch.cuda.memory_reserved(device)


def _resident(pid: int, root: Path) -> tuple[int, int] | None:
    """Return private and shared resident bytes, None for a process that is gone."""
    words = read_words(root / f"proc/{pid}/statm")
    if len(words) < 3:
        return None
    page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
    resident, shared = int(words[1]) * page, int(words[2]) * page
    return max(0, resident - shared), shared


def _descendants(pid: int, root: Path) -> Iterator[int]:
    """Yield the processes below `pid`: from their list of children, which some kernels lack, else by their parents."""
    by_parent = None if (root / f"proc/{pid}/task/{pid}/children").exists() else _children_by_parent(root)
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        children = _listed_children(parent, root) if by_parent is None else by_parent.get(parent, [])
        yield from children
        waiting += children


def _listed_children(pid: int, root: Path) -> list[int]:
    """Return the children of a process; one that ends while it is looked at has none."""
    folder = root / f"proc/{pid}/task"
    threads: list[Path] = []
    with contextlib.suppress(OSError):
        threads = list(folder.iterdir())
    return [int(word) for thread in threads for word in read_words(thread / "children") if word.isdigit()]


def _children_by_parent(root: Path) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for folder in (root / "proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            after_name = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
            children.setdefault(int(after_name.split()[1]), []).append(int(folder.name))
    return children


def _own_peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415 - absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MemoryWatch:
    """Looks at used memory between steps: warns once in words at a share of the limit, and says when it is over.

    Parameters
    ----------
    limit_bytes : what may be used.
    warn_frac : warn from this share on.
    tell : gets the one warning, for the log and the report.
    used : what is used now; the whole process tree by default, `cuda_bytes` on a GPU.
    where : names the memory in the warning.
    every_seconds : looks are no closer together; a check in between repeats the last answer.
    """

    def __init__(
        self,
        limit_bytes: int,
        warn_frac: float = 0.85,
        *,
        tell: Callable[[str], None],
        used: Callable[[], int] = process_tree_bytes,
        where: str = "memory",
        every_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit_bytes <= 0 or not 0.0 < warn_frac <= 1.0:
            raise ValueError("a memory watch needs a limit above 0 and a warn_frac in (0, 1]")
        self._limit, self._warn_frac = limit_bytes, warn_frac
        self._tell, self._used, self._where = tell, used, where
        self._every_seconds, self._clock = every_seconds, clock
        self._looked_at = -math.inf
        self._state: State = "ok"
        self._warned = False
        self.peak_bytes = 0

    def check(self) -> State:
        """Return "ok", "warn" from `warn_frac` of the limit on, "over" beyond it; cheap enough for every step."""
        now = self._clock()
        if now - self._looked_at >= self._every_seconds:
            self._looked_at = now
            self._state = self._look()
        return self._state

    def _look(self) -> State:
        used = self._used()
        self.peak_bytes = max(self.peak_bytes, used)
        if used < self._warn_frac * self._limit:
            return "ok"
        if not self._warned:
            self._warned = True
            self._tell(
                f"{self._where}: {used / GIB:.1f} of {self._limit / GIB:.1f} GiB are used "
                f"({used / self._limit:.0%}, the warning comes at {self._warn_frac:.0%}); "
                "beyond the limit smaller groups are computed one after another"
            )
        return "over" if used > self._limit else "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBytes:
    """Bytes one model needs in one training step: `state` as long as it trains, `kept` and `passing` during the step.

    Attributes
    ----------
    state : value, gradient, moments, best epoch, result, moving average of every number, and one copy in passing.
    inputs : the batch.
    kept : what the backward pass needs of the forward pass.
    passing : the largest intermediate results on top of that.
    """

    state: int
    inputs: int
    kept: int
    passing: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.state + self.inputs + self.kept + self.passing


def num_parameters(config: StockformerConfig) -> int:
    """Return P, the numbers of one network."""
    return sum(math.prod(shape) for shape in weight_shapes(config).values())


def bytes_per_model(config: StockformerConfig, sequences: int, sessions: int, precision: Precision) -> int:
    """Return the peak memory of one stacked model's step over N sequences with O output sessions, see `step_bytes`."""
    return step_bytes(config, sequences, sessions, precision).total


def step_bytes(
    config: StockformerConfig, sequences: int, sessions: int, precision: Precision, *, stacked: bool = True
) -> StepBytes:
    """Return what one model's training step needs, `stacked` with others (or with deltas) or alone.

    Counted as the network keeps it: per layer the inputs and results of both norms, queries, keys, values, attention
    weights, the attended values and the two wide results of the
    feed-forward part. A stack also keeps every dropout mask and the norms before their gains.
    """
    if sequences < 1 or sessions < 1:
        raise ValueError("a step has at least one sequence and one session")
    inputs_F = sequences * (sessions + config.context_sessions) * (_FLOAT32 * config.num_features + 1)
    labels = sequences * sessions * (2 * _FLOAT32 + 2 + _FLOAT32 * config.num_horizons)
    half = precision != "float32"
    tokens = _streaming(config, sessions, half=half, stacked=stacked)
    if config.attention == "window":
        tokens = _windows(config, half=half, stacked=stacked)
        sequences *= sessions
    kept, passing = tokens
    numbers = num_parameters(config)
    return StepBytes(
        state=_FLOAT32 * _STATE_COPIES * numbers,
        inputs=inputs_F + labels,
        kept=sequences * kept + (2 * numbers if half else 0),
        passing=sequences * (passing * 3 // 2 if half else passing),  # casts to and from half precision
    )


def _streaming(config: StockformerConfig, sessions: int, *, half: bool, stacked: bool) -> tuple[int, int]:
    """Return what one sequence keeps and passes; the residual stream is in the precision of the products."""
    width, band = config.d_model, config.band_sessions
    own = 2 if half else _FLOAT32
    masks = own if stacked else 0  # alone, a mask is a view of the bank
    hats = own if stacked else 0
    queries = sessions + config.num_layers * (band - 1)
    kept = queries * (width * masks + config.num_features * (own if half else 0))
    passing = 0
    for _ in range(config.num_layers):
        keys, queries = queries, queries - (band - 1)
        rows = min(BLOCK_SESSIONS, queries)
        blocks = -(-queries // rows)
        padded, span = blocks * rows, (1 + -(-(band - 1) // rows)) * rows
        weights = config.num_heads * padded * span
        kept += width * keys * (2 * own + hats)
        kept += width * own * (2 * padded + 2 * blocks * span)
        kept += weights * own
        kept += queries * (width * (2 * own + hats + 2 * masks) + 2 * config.d_ff * own)
        passing = max(passing, 4 * _FLOAT32 * weights + 2 * own * queries * config.d_ff)
    return kept + _head_bytes(config) * sessions, passing


def _windows(config: StockformerConfig, *, half: bool, stacked: bool) -> tuple[int, int]:
    """Return what one window keeps and passes; the residual stream stays float32, the last layer has one query."""
    width, window = config.d_model, config.window_sessions
    own = 2 if half else _FLOAT32
    masks = own if stacked or half else 0
    hats = _FLOAT32 if stacked else 0
    before = _FLOAT32 + hats + own + 2 * own  # norm's input, its result (and before the gain), keys and values
    after = 2 * own + _FLOAT32 + hats + own + 2 * masks  # query, attended; second norm; two masks
    one_query = width * after + 2 * config.d_ff * own
    kept = window * config.num_features * (_FLOAT32 + (own if half else 0))
    kept += window * width * ((_FLOAT32 if stacked else 0) + config.num_layers * before)
    kept += one_query * (window * (config.num_layers - 1) + 1)
    weights = config.num_heads * window * own  # of one query; the fused kernel of GPUs keeps none
    kept += weights * (window * (config.num_layers - 1) + 1)
    passing = window * (2 * config.d_ff * own + 6 * width * _FLOAT32 + 3 * weights)
    return kept + _head_bytes(config), passing


def _head_bytes(config: StockformerConfig) -> int:
    """Return what the final norm and the heads keep per output, in float32."""
    numbers = 3 * config.d_model + 4 * config.num_horizons
    return _FLOAT32 * (numbers + (12 * config.d_model if config.head == "mlp" else 0))


def group_size(
    config: StockformerConfig,
    *,
    num_models: int,
    sequences: int,
    sessions: int,
    precision: Precision,
    available: int,
    fixed: int = 0,
) -> int:
    """Return how many of `num_models` equal models are stacked at once so that a step fits; at least one.

    Groups come out even: 102 models of which 60 fit are two groups of 51. `available` are the bytes that may be taken
    (`available_bytes`, or a GPU's memory), `fixed` those taken besides the step, such as resident data and the dropout
    bank. A group of one that does not fit either is computed in parts, see `parts_of_step`.
    """
    if num_models < 1:
        raise ValueError("there is no group of no model")
    room = _SAFE_SHARE * (available - fixed)
    fitting = max(1, int(room // bytes_per_model(config, sequences, sessions, precision)))
    return math.ceil(num_models / math.ceil(num_models / min(num_models, fitting)))


def parts_of_step(
    config: StockformerConfig,
    *,
    num_models: int,
    sequences: int,
    sessions: int,
    precision: Precision,
    available: int,
    fixed: int = 0,
) -> int:
    """Return in how many parts, cut by session, a step of `num_models` models is computed so that each fits; 1 = whole.

    Raises
    ------
    ResourceError
        When not even one session at a time fits.
    """
    room = _SAFE_SHARE * (available - fixed)
    for parts in range(1, sessions + 1):
        longest = math.ceil(sessions / parts)
        needed = num_models * bytes_per_model(config, sequences, longest, precision)
        if needed <= room:
            return parts
    raise ResourceError(
        "one training step does not fit into memory",
        expected=f"{needed / GIB:.2f} GiB for {num_models} model(s), {sequences} sequences, one session at a time",
        found=f"{max(0.0, room) / GIB:.2f} GiB that can be used safely",
        fix="close other programs, or set a smaller d_model, fewer models at once or a machine with more memory",
    )


def measured_peak(run: Callable[[], object], device: str = "cpu") -> int:
    """Return how many bytes `run` took at its peak beyond what was taken before.

    On a CPU it is resident memory as the system saw it, freed memory handed back first; sampled where the system keeps
    no resettable peak. Other threads of the process count too.
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    hand_back_freed()
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): reset the peak resident set size
        before = _status_bytes(status, "VmRSS")
        run()
        return max(0, _status_bytes(status, "VmHWM") - before)
    except OSError:
        return _sampled_peak(run)


def hand_back_freed(device: str = "cpu") -> None:
    """Return freed memory to the system, where the C library can (glibc), and torch's cache to a GPU.

    After a step was cut into smaller parts, a watch would otherwise go on seeing the larger one.
    """
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(path: Path, name: str) -> int:
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no {name}")


def _sampled_peak(run: Callable[[], object]) -> int:
    before = top = process_tree_bytes()
    done = threading.Event()

    def look() -> None:
        nonlocal top
        while not done.wait(_SAMPLE_SECONDS):
            top = max(top, process_tree_bytes())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        run()
        top = max(top, process_tree_bytes())
    finally:
        done.set()
        watcher.join()
    return top - before


_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's CPU allocator on Linux
    "not enough memory",  # the same on Windows
    "out of memory",  # CUDA driver and allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, or what caused it, means that memory ran out: Python, numpy, torch on CPU and CUDA."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(current, RuntimeError) and any(words in str(current) for words in _OUT_OF_MEMORY):
            return True
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False
