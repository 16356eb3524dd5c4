"""Weight syncs that fail, for test_weight_sync_failure.py; imported by vLLM's worker."""

import os
from typing import Any

from verl_multiattempt.cpu.rollout import CpuWorkerExtension


class FailingExtension(CpuWorkerExtension):
    """The first sync (before step 1) works, the next one fails in the way of ``FAIL_SYNC``."""

    syncs = 0

    def update_weights_from_ipc(self, *args: Any, **kwargs: Any) -> None:
        type(self).syncs += 1
        if self.syncs == 1:
            return super().update_weights_from_ipc(*args, **kwargs)
        if os.environ["FAIL_SYNC"] == "dies":
            os._exit(1)
        raise OSError("injected: shared memory is full")  # before a weight is received: upstream's sender would block
