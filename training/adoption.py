"""Models that training/sagemaker.py trained, as candidates for a version of this warehouse's own."""

import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoring.release import Release, read_champion, release_dir
from training.errors import TrainingError
from training.run import Candidates

REPORT_FILE = "report.json"


def read_candidates(path: Path) -> Candidates:
    """The five models of a model directory, or of the model.tar.gz that SageMaker packs it into.

    Raises TrainingError or ReleaseError, naming the file, when there are no such models.
    """
    if path.is_dir():
        return _candidates(path)
    if not path.exists():
        raise TrainingError(f"There is no model directory or archive at {path}.")
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        try:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, OSError, EOFError) as error:
            reason = str(error).splitlines()[0].rstrip(":.")
            raise TrainingError(f"{path} is not an archive of models: {reason}.") from error
        return _candidates(Path(folder), path)


def _candidates(directory: Path, named: Path | None = None) -> Candidates:
    release = read_champion(directory)
    if release is None:
        raise TrainingError(f"{named or directory} holds no models: there is no champion.json in it.")
    return Candidates(
        models=release.models,
        fits=_fits(release, release_dir(directory, release.model_version) / REPORT_FILE),
        trained_until=release.trained_until,
        training_rows=release.training_rows,
    )


def _fits(release: Release, report: Path) -> dict[str, Mapping[str, Any]]:
    try:
        fits = {name: model["fit"] for name, model in json.loads(report.read_bytes())["models"].items()}
        return {
            name: {**fits[name], "trees": len(model.trees.trees)} for name, model in release.models.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{report} does not say how the models were fitted: {error!r}.") from error
