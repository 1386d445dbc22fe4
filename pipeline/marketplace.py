"""Which raw data a run uses: the user's own, or a simulated marketplace that is made once."""

from __future__ import annotations

import json
import os

from feature_repo.paths import raw_data_dir
from pipeline.steps import Step, python_module
from simulator.config import Config
from simulator.writer import NOTE


class MarketplaceError(Exception):
    """The raw directory cannot be used as asked; the message is one sentence that says what to do."""


def simulation_step(asked: Config) -> Step | None:
    """The step that simulates a marketplace as asked, or None when there are raw data to use.

    Data in RAW_DATA_DIR are the user's own. In the default directory a simulation with the same arguments is
    used again. Raises MarketplaceError when it holds a simulation with others: features of two marketplaces
    must not meet in one warehouse.
    """
    directory = raw_data_dir()
    if os.environ.get("RAW_DATA_DIR"):
        return None
    arguments = asked.arguments()
    if directory.exists() and any(directory.iterdir()):
        note = directory / NOTE
        if note.exists() and (found := json.loads(note.read_text())) != arguments:
            raise MarketplaceError(
                f"{directory} holds another marketplace ({_described(found)}) than the one asked for "
                f"({_described(arguments)}): 'make clean' removes it with all that was built from it."
            )
        return None
    options = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]
    return python_module("simulate", "simulator", *options, f"--out={directory}")


def _described(arguments: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in arguments.items())
