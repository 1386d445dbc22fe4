"""Which raw data a run uses: the user's own, or a simulated marketplace that is made once."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from feature_repo.paths import raw_data_dir
from pipeline.steps import Step, python_module

NOTE = "simulation.json"


class MarketplaceError(Exception):
    """The raw directory cannot be used as asked; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Marketplace:
    """What a simulated marketplace depends on."""

    customers: int
    seed: int
    start: str
    end: str


def simulation_step(marketplace: Marketplace) -> Step | None:
    """The step that simulates `marketplace`, or None when there are raw data to use.

    Data in RAW_DATA_DIR are the user's own. In the default directory a simulation with the same arguments is
    used again. Raises MarketplaceError when it holds a simulation with others: features of two marketplaces
    must not meet in one warehouse.
    """
    directory = raw_data_dir()
    if os.environ.get("RAW_DATA_DIR"):
        return None
    if directory.exists() and any(directory.iterdir()):
        note = directory / NOTE
        if not note.exists():
            return None
        found = Marketplace(**json.loads(note.read_text()))
        if found != marketplace:
            raise MarketplaceError(
                f"{directory} holds another marketplace ({_described(found)}) than the one asked for "
                f"({_described(marketplace)}): 'make clean' removes it with all that was built from it."
            )
        return None
    arguments = [f"--{name}={value}" for name, value in asdict(marketplace).items()]
    return python_module("simulate", "simulator", *arguments, f"--out={directory}")


def note_simulation(marketplace: Marketplace) -> None:
    """Leave a note in the raw directory of what was simulated."""
    note = raw_data_dir() / NOTE
    partial = Path(f"{note}.partial")
    partial.write_text(json.dumps(asdict(marketplace)) + "\n")
    partial.replace(note)


def _described(marketplace: Marketplace) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(marketplace).items())
