"""Experiments and versions in MLflow (SQLite store, local files), and the order in which a version becomes
real.

A version is registered first, because MLflow gives it its number; then its files are logged to the run, then
the release is written whole, then the alias `champion` moves, and the pointer that scoring reads moves last.
A run that dies in between leaves a version number that nothing points to, and the champion as it was.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from scoring.release import (
    Release,
    list_releases,
    read_champion,
    release_dir,
    release_files,
    set_champion,
    version_number,
    write_release,
)
from training.errors import TrainingError

# Set before MLflow is imported anywhere below: nothing is reported to anyone.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

REGISTERED_MODEL = "customer_health"
EXPERIMENT = "customer_health"
CHAMPION = "champion"
_RELEASE_FOLDER = "release"


@dataclass(frozen=True)
class Publication:
    """What is to be published once its version number is known."""

    release: Release
    extra_files: Mapping[str, str]
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    champion: bool


@contextmanager
def training_lock(models_dir: Path) -> Iterator[None]:
    """Hold the right to publish releases. Raises TrainingError when another training runs on the same
    directory.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    path = models_dir / ".training.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"Another training is writing to {models_dir}: wait until it has ended."
            ) from None
        yield


def open_store(tracking_uri: str, artifact_root: Path) -> "MlflowClient":
    """A client of the store, which is created when it does not exist, together with experiment and registered
    model.

    Raises TrainingError when the store cannot be opened.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    # After the import, which configures these itself. What fails raises.
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)

    if tracking_uri.startswith("sqlite:///"):
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=artifact_root.resolve().as_uri())
        if not client.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
            client.create_registered_model(
                REGISTERED_MODEL,
                description="Five models of customer health; a version is a bundle of all five.",
            )
    except (MlflowException, OSError) as error:
        raise TrainingError(f"The MLflow store {tracking_uri} cannot be opened: {error}.") from error
    return client


def publish(
    client: "MlflowClient",
    models_dir: Path,
    describe: Callable[[str], Publication],
    run_name: str = "training",
) -> Publication:
    """Register the next version and publish it; `describe` makes the publication of a given model version.

    On any error the MLflow run is marked failed and the champion stays what it was.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run = client.create_run(experiment.experiment_id, run_name=run_name)
    run_id = run.info.run_id
    source = f"{run.info.artifact_uri}/{_RELEASE_FOLDER}"
    try:
        _agree_with_disk(client, models_dir)
        version = client.create_model_version(REGISTERED_MODEL, source=source, run_id=run_id)
        publication = describe(f"v{version.version}")
        _log(client, run_id, publication)
        for name, value in publication.tags.items():
            client.set_model_version_tag(REGISTERED_MODEL, str(version.version), name, value)
        write_release(publication.release, models_dir, publication.extra_files)
        if publication.champion:
            client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, str(version.version))
            set_champion(models_dir, publication.release.model_version)
        client.set_terminated(run_id, "FINISHED")
    except BaseException:
        # Where the store itself is what fails, that error is the one to see.
        with suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    return publication


def _log(client: "MlflowClient", run_id: str, publication: Publication) -> None:
    from mlflow.entities import Metric, Param, RunTag

    moment = int(publication.release.trained_at.replace(tzinfo=UTC).timestamp() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, moment, 0) for name, value in publication.metrics.items()],
        params=[Param(name, value) for name, value in publication.parameters.items()],
        tags=[RunTag(name, value) for name, value in publication.tags.items()],
    )
    for name, text in {**release_files(publication.release), **publication.extra_files}.items():
        client.log_text(run_id, text, f"{_RELEASE_FOLDER}/{name}")


def _agree_with_disk(client: "MlflowClient", models_dir: Path) -> None:
    # A version number is never given twice, because predictions are kept by it. Where the store was deleted
    # and the releases were not, the store is told of them before it counts on.
    newest = max((version_number(version) for version in list_releases(models_dir)), default=0)
    versions = client.search_model_versions(
        f"name = '{REGISTERED_MODEL}'", order_by=["version_number DESC"], max_results=1
    )
    known = int(versions[0].version) if versions else 0
    for number in range(known + 1, newest + 1):
        source = release_dir(models_dir, f"v{number}").resolve().as_uri()
        client.create_model_version(
            REGISTERED_MODEL, source=source, tags={"decision": "recovered from its release"}
        )
    # What scoring reads is the truth: the alias may be lost, or be ahead of it by a training that died.
    champion = read_champion(models_dir)
    if champion is not None:
        number = str(version_number(champion.model_version))
        client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, number)
