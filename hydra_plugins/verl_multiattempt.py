"""Makes the config groups of verl_multiattempt visible to Hydra (``+recipe=multiattempt``, ``+platform=cpu``)."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class VerlMultiAttemptSearchPathPlugin(SearchPathPlugin):
    """Appends ``verl_multiattempt.config`` to the search path of every Hydra application."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append after the application's own entries, so that verl's configs keep precedence."""
        search_path.append(provider="verl_multiattempt", path="pkg://verl_multiattempt.config")
