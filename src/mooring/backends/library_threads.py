"""How many threads the libraries of a model may have. Runs in workers, and in templates that load a model.

By itself torch takes as many as the machine has cores, whatever the quota of a container is and however many workers
divide them.
"""

import os
import sys


def limit_library_threads(threads: int) -> None:
    """Limit OpenMP and torch to these: by environment before torch is imported, by a call afterwards.

    Call it before a model is loaded and again after that. A number that the user has set in the environment stays.
    """
    if threads < 1:
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
