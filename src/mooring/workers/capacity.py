"""How many worker processes a server may have: what a setting says, or the machine."""

import msgspec

from mooring.descriptors import highest_limit
from mooring.hardware import count_cores, count_pool_threads, most_processes, usable_memory

# What a machine is taken to bear, where nothing is set: far more than anybody needs, and few enough to be started.
_PER_CORE = 256
_LEAST = 64
_MEMORY = 16 << 20  # bytes of the smallest worker
_DESCRIPTORS = 4  # that the server has open for one
_OWN_DESCRIPTORS = 256  # for listeners, templates and connections
# Processes and threads: of a worker, itself and the thread that sends what is late; of the server, its own with its
# templates and codec processes. Each core may have a thread of a model's library, and there is the event loop's pool.
_TASKS = 2
_OWN_TASKS = 12


class Capacity(msgspec.Struct, frozen=True):
    """So many worker processes of all models together, and where the number comes from."""

    workers: int
    reason: str

    def refusal_reason(self, wanted: int, others: int = 0) -> str:
        """The reason why a model cannot have so many workers beside the ``others``; empty where it can."""
        if wanted + others <= self.workers:
            return ""
        beside = f" beside {others} of other models" if others else ""
        return (
            f"{wanted} workers{beside} are too many: this server has room for {self.workers} ({self.reason}); "
            "ask for fewer, or set max_worker_processes"
        )


def descriptors_needed(workers: int) -> int:
    """How many file descriptors a server needs that has so many workers: theirs, its own, and those of some clients."""
    return workers * _DESCRIPTORS + _OWN_DESCRIPTORS


def machine_capacity(setting: int = 0) -> Capacity:
    """By the setting ``max_worker_processes``, where it is not 0; else by the scarcest of what workers need."""
    if setting:
        return Capacity(setting, f"max_worker_processes is {setting}")
    found = [(max(_PER_CORE * count_cores(), _LEAST), f"{_PER_CORE} for each core")]
    found.append((max(usable_memory() // _MEMORY, _LEAST), f"{_MEMORY >> 20} MB of memory for each"))
    tasks = most_processes()
    if tasks is not None:
        left = tasks - _OWN_TASKS - count_cores() - count_pool_threads()
        found.append(
            (max(left // _TASKS, 0), f"{_TASKS} of the {tasks} processes and threads that there may be")
        )
    # As the server will have it: it raises its limit at the start, doctor does not.
    descriptors = highest_limit()
    found.append((descriptors // _DESCRIPTORS, f"{descriptors} file descriptors"))
    return Capacity(*min(found))
