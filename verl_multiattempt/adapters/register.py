"""Target of the entry point group ``verl.plugins``: imported at the end of ``import verl`` in every process."""

from verl_multiattempt.cpu import activate

activate()
