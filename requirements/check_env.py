"""Checks that an environment is the CPU stack; one sentence and exit status 1 if it is not.

``check_env.py report FILE`` judges the build of torch that pip would install (``pip install --dry-run --report FILE``),
``check_env.py torch`` the installed torch, ``check_env.py all`` torch and what must be absent. Standard library only.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

ABSENT = ("torchvision", "torchaudio", "torchcodec")
REMEDY = (
    "Set TORCH_INDEX_URL to the index of CPU builds that the installation page of pytorch.org shows for pip, Linux, "
    "CPU, and run again: make setup TORCH_INDEX_URL=..."
)


def locked_torch() -> str:
    """Return torch's version in the lock."""
    lines = Path(__file__).with_name("cpu.lock").read_text(encoding="utf-8").splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith("torch=="))


def check_report(path: str) -> None:
    """Refuse a CUDA or ROCm build, which is known by the accelerator's libraries among its dependencies."""
    (item,) = json.loads(Path(path).read_text(encoding="utf-8"))["install"]
    metadata = item["metadata"]
    _, _, local = metadata["version"].partition("+")
    needs = [need for need in metadata.get("requires_dist", []) if need.startswith(("nvidia-", "cuda-", "triton"))]
    if local not in ("", "cpu") or (needs and local != "cpu"):
        sys.exit(f"setup: torch must be a CPU build; pip would install {metadata['version']} for GPUs. {REMEDY}")


def check_torch() -> None:
    """Refuse a torch that is absent, of another version, built for an accelerator, or broken."""
    try:
        import torch
    except Exception as error:  # a GPU build without its libraries raises OSError
        sys.exit(f"setup: torch must be importable; got {type(error).__name__}: {error}. {REMEDY}")
    if torch.__version__.partition("+")[0] != locked_torch():
        sys.exit(f"setup: torch must be {locked_torch()}; got {torch.__version__}. Run make setup again.")
    if torch.version.cuda is not None or torch.version.hip is not None:
        sys.exit(f"setup: torch must be a CPU build; got {torch.__version__}. {REMEDY}")


def check_absent() -> None:
    """Refuse the packages whose builds fail at import beside a CPU torch, and transformers with them."""
    present = [name for name in ABSENT if importlib.util.find_spec(name)]
    if present:
        names = " ".join(present)
        sys.exit(f"setup: {names} must be absent. Remove: {sys.executable} -m pip uninstall {names}")


def main() -> None:
    """Run the checks named on the command line."""
    match sys.argv[1:]:
        case ["report", path]:
            check_report(path)
        case ["torch"]:
            check_torch()
        case ["all"]:
            check_torch()
            check_absent()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
