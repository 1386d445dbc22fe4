"""A release: the five trained models as files that scoring reads, without MLflow and without pickles.

    <models_dir>/
        champion.json                     {"model_version": "v2"}: the release that scoring uses
        releases/v2/release.json          what the release is, calibration, held-out figures, decision
        releases/v2/churn_risk_14d.txt    one LightGBM text model a prediction column
        releases/v2/split.csv             the split that it was trained by, where not the standard one
        ...

A release never changes once written. It is written beside its final place and renamed into it, so a reader
finds a whole release or none; the champion pointer is replaced in the same way.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.files import sync_folder, write_whole
from scoring.kernel import Kernel
from scoring.reasons import Explainer
from scoring.trees import Trees, UnsupportedModelError, read_trees

if TYPE_CHECKING:
    import lightgbm

# The prediction columns of predictions.customer_predictions, in their order there; each is one model.
MODEL_NAMES = (
    "churn_risk_14d",
    "churn_risk_30d",
    "health_score",
    "session_velocity",
    "first_session_success",
)

# Models that a release may lack: not every marketplace has first sessions that are rated. The column is then
# null. The others carry tier, reasons and the order of the risks.
OPTIONAL_MODELS = ("first_session_success",)

FORMAT = 1
_RELEASES = "releases"
_RELEASE_FILE = "release.json"
SPLIT_FILE = "split.csv"
_CHAMPION_FILE = "champion.json"
_VERSION = re.compile(r"v([1-9][0-9]*)")
# Probabilities nearer to 0 or 1 than this have no usable log-odds.
PROBABILITY_EDGE = 1e-12


class ReleaseError(Exception):
    """A release cannot be read or written; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Calibration:
    """Logistic calibration on the log-odds: p' = 1 / (1 + exp(-(slope * logit(p) + intercept))).

    Two numbers instead of a step function: they move probabilities without changing the order of customers,
    and any SQL engine can apply them.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.slope) and np.isfinite(self.intercept) and self.slope > 0):
            raise ValueError(
                f"A calibration needs a finite slope above 0 and a finite intercept, not {self}."
            )

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, shape and dtype of `probabilities` (float64, each in [0, 1])."""
        clipped = np.clip(probabilities, PROBABILITY_EDGE, 1.0 - PROBABILITY_EDGE)
        log_odds = np.log(clipped / (1.0 - clipped))
        return 1.0 / (1.0 + np.exp(-(self.slope * log_odds + self.intercept)))


@dataclass(frozen=True)
class ReleasedModel:
    """One trained model: a LightGBM model text and what happens to its output.

    `features` are in the order of the Booster's columns. `lower` and `upper` bound the output (None:
    unbounded). `origin_version` is the version in which this booster was trained: an earlier one than the
    release's own where the challenger was worse and the incumbent's booster was carried over. `held_out`
    holds the figures that this booster reached on the held-out rows of the release it is in.
    """

    name: str
    feature_service: str
    features: tuple[str, ...]
    booster_text: str
    calibration: Calibration | None
    lower: float | None
    upper: float | None
    held_out: Mapping[str, Any]
    origin_version: str

    @cached_property
    def booster(self) -> "lightgbm.Booster":
        """The LightGBM model, parsed once."""
        # The kernel scores without LightGBM, so dbt's many short runs need not load it.
        import lightgbm

        return lightgbm.Booster(model_str=self.booster_text)

    @cached_property
    def trees(self) -> Trees:
        """The same model for scoring, parsed once. Raises UnsupportedModelError when scoring cannot do it."""
        return read_trees(self.booster_text)

    @cached_property
    def explainer(self) -> Explainer:
        """The model, compiled once to say what each feature adds to its predictions."""
        return Explainer(self.trees)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predictions, float64 (rows,): Booster.predict, then calibration, then the bounds.

        `features` is float64 (rows, len(self.features)), columns in the order of `self.features`. Raises
        ValueError when the shape is another. Every row is predicted; that `first_session_success` is null
        once a first session took place is for the caller to apply.
        """
        matrix = self._checked(features)
        if not len(matrix):
            return np.empty(0)
        return self.finished(np.asarray(self.booster.predict(matrix), dtype=np.float64))

    def finished(self, outputs: np.ndarray) -> np.ndarray:
        """What the booster gave, float64 (rows,), after calibration and bounds: the predictions."""
        predictions = outputs
        if self.calibration is not None:
            predictions = self.calibration.apply(predictions)
        if self.lower is not None or self.upper is not None:
            predictions = np.clip(predictions, self.lower, self.upper)
        return predictions

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """What each feature adds to each prediction (TreeSHAP), float64 (rows, len(self.features) + 1).

        The last column is the base value. A row sums to the log-odds of the calibrated probability (churn,
        first session) or to the prediction itself (health, velocity), before the bounds.
        """
        matrix = self._checked(features)
        if not len(matrix):
            return np.empty((0, len(self.features) + 1))
        effects = np.asarray(self.booster.predict(matrix, pred_contrib=True), dtype=np.float64)
        if self.calibration is not None:
            effects *= self.calibration.slope
            effects[:, -1] += self.calibration.intercept
        return effects

    def _checked(self, features: np.ndarray) -> np.ndarray:
        matrix = np.ascontiguousarray(features, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != len(self.features):
            raise ValueError(
                f"{self.name} takes {len(self.features)} features a row, not shape {matrix.shape}."
            )
        return matrix


@dataclass(frozen=True)
class Release:
    """One version of the five models, or of all but OPTIONAL_MODELS: what scoring uses and what the
    model_versions table reports.

    All times are naive UTC. `data_as_of` is the data end that the training saw; `trained_until` the last
    moment whose data any of the models learned from: predictions for snapshots after it are honest.
    `training_rows` counts the distinct entity rows that this version's own training learned from or chose
    with. `decision` says, a model, whether the challenger replaced the incumbent, and why. `split_sha256` is
    the checksum of the split of one's own that it was trained by, which lies beside it as SPLIT_FILE; None:
    the standard split of training.split.
    """

    model_version: str
    trained_at: datetime
    data_as_of: datetime
    trained_until: datetime
    training_rows: int
    models: Mapping[str, ReleasedModel]
    decision: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    split_sha256: str | None = None

    def __post_init__(self) -> None:
        version_number(self.model_version)
        expected = tuple(name for name in MODEL_NAMES if name in self.models or name not in OPTIONAL_MODELS)
        if tuple(self.models) != expected:
            raise ValueError(
                f"A release holds {', '.join(MODEL_NAMES)} in this order, of which only "
                f"{', '.join(OPTIONAL_MODELS)} may be missing, not {', '.join(self.models)}."
            )

    @cached_property
    def kernel(self) -> Kernel:
        """The boosters, compiled once to score together."""
        return Kernel([model.trees for model in self.models.values()])

    def predict(self, features: np.ndarray, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """The prediction of each model, name → float64 (rows,), with the churn probabilities in order.

        `features` is float64 (rows, len(columns)); `columns` names its columns and must contain every model's
        features, in any order. Raises ValueError when one is missing.
        """
        position = {name: index for index, name in enumerate(columns)}
        predictions = {}
        for name, model in self.models.items():
            missing = [feature for feature in model.features if feature not in position]
            if missing:
                raise ValueError(
                    f"{name} of release {self.model_version} needs the features {', '.join(missing)}."
                )
            predictions[name] = model.predict(features[:, [position[feature] for feature in model.features]])
        return in_order(predictions)


def in_order(predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The predictions with churn_risk_14d no greater than churn_risk_30d.

    A lapse that starts within 14 days also starts within 30. The 30-day model is the better informed of the
    two about that (more positives), so it is the 14-day probability that gives way. The one place where this
    rule lives.
    """
    ordered = dict(predictions)
    ordered["churn_risk_14d"] = np.minimum(predictions["churn_risk_14d"], predictions["churn_risk_30d"])
    return ordered


def version_number(model_version: str) -> int:
    """The n of 'v<n>'. Raises ReleaseError for any other text."""
    match = _VERSION.fullmatch(model_version)
    if match is None:
        raise ReleaseError(f"A model version is 'v1', 'v2' and so on, not '{model_version}'.")
    return int(match.group(1))


def release_dir(models_dir: Path, model_version: str) -> Path:
    """Where a release lies, whether or not it exists."""
    version_number(model_version)
    return Path(models_dir) / _RELEASES / model_version


def write_release(
    release: Release, models_dir: Path, extra_files: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write a release whole or not at all, and return its directory.

    `extra_files` (name → text) lie beside release.json, such as the training report. Raises ReleaseError when
    the release exists already: releases never change. The champion pointer is left alone.
    """
    target = release_dir(models_dir, release.model_version)
    if target.exists():
        raise ReleaseError(f"{target} exists already, and a release never changes.")
    files = release_files(release)
    if release.split_sha256 != (checksum(extra_files[SPLIT_FILE]) if SPLIT_FILE in extra_files else None):
        raise ValueError(f"The release names another {SPLIT_FILE} than the one among its files.")
    clashing = sorted(set(files) & set(extra_files))
    if clashing:
        raise ValueError(f"The extra files {', '.join(clashing)} would overwrite files of the release.")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{release.model_version}-", dir=target.parent))
    try:
        for name, text in {**files, **extra_files}.items():
            write_whole(draft / name, text)
        draft.chmod(0o755)  # mkdtemp makes it private; other users may score
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(target.parent)
    return target


def release_files(release: Release) -> dict[str, str]:
    """The files of a release, name → text: release.json and one LightGBM text file a model."""
    files = {f"{name}.txt": model.booster_text for name, model in release.models.items()}
    described = {
        "format": FORMAT,
        "model_version": release.model_version,
        "trained_at": release.trained_at.isoformat(),
        "data_as_of": release.data_as_of.isoformat(),
        "trained_until": release.trained_until.isoformat(),
        "training_rows": release.training_rows,
        "decision": release.decision,
        "split": None
        if release.split_sha256 is None
        else {"file": SPLIT_FILE, "sha256": release.split_sha256},
        # Said outright, so that a model that got lost is not taken for one that never was.
        "not_trained": [name for name in MODEL_NAMES if name not in release.models],
        "models": [
            {
                "name": name,
                "file": f"{name}.txt",
                "sha256": checksum(model.booster_text),
                "feature_service": model.feature_service,
                "features": list(model.features),
                "calibration": None
                if model.calibration is None
                else {"slope": model.calibration.slope, "intercept": model.calibration.intercept},
                "lower": model.lower,
                "upper": model.upper,
                "origin_version": model.origin_version,
                "held_out": model.held_out,
            }
            for name, model in release.models.items()
        ],
    }
    # NaN is not JSON: a figure that could not be computed is null.
    files[_RELEASE_FILE] = json.dumps(described, indent=2, allow_nan=False, default=dict) + "\n"
    return files


def read_release(models_dir: Path, model_version: str) -> Release:
    """The release as it was written, bit for bit.

    Raises ReleaseError, naming the file, when the release or one of its files is missing, unreadable or
    altered.
    """
    directory = release_dir(models_dir, model_version)
    path = directory / _RELEASE_FILE
    described = _read_json(path)
    if described.get("format") != FORMAT:
        raise ReleaseError(
            f"{path} has format {described.get('format')}, and this code reads format {FORMAT}."
        )
    try:
        models = {entry["name"]: _read_model(directory, entry) for entry in described["models"]}
        lost = [name for name in MODEL_NAMES if name not in (*models, *described.get("not_trained", ()))]
        if lost:
            raise ValueError(f"{', '.join(lost)} is missing")
        return Release(
            model_version=described["model_version"],
            trained_at=datetime.fromisoformat(described["trained_at"]),
            data_as_of=datetime.fromisoformat(described["data_as_of"]),
            trained_until=datetime.fromisoformat(described["trained_until"]),
            training_rows=described["training_rows"],
            models=models,
            decision=described["decision"],
            split_sha256=(described.get("split") or {}).get("sha256"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"{path} is not a release of the five models: {error!r}.") from error


def read_split(models_dir: Path, release: Release) -> str | None:
    """The split of one's own by which the release was trained, as it was written; None: it has none.

    Scoring needs no split, so read_release leaves it where it is. Raises ReleaseError when it is missing or
    altered.
    """
    if release.split_sha256 is None:
        return None
    path = release_dir(models_dir, release.model_version) / SPLIT_FILE
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(
            f"The split {path}, by which the release was trained, cannot be read: {error}."
        ) from error
    if checksum(text) != release.split_sha256:
        raise ReleaseError(f"The split {path} is not the one that was released: its checksum differs.")
    return text


def read_champion(models_dir: Path) -> Release | None:
    """The release that scoring uses; None when no model was ever trained."""
    path = Path(models_dir) / _CHAMPION_FILE
    if not path.exists():
        return None
    version = _read_json(path).get("model_version")
    if not isinstance(version, str):
        raise ReleaseError(f"{path} names no model_version.")
    return read_release(models_dir, version)


def set_champion(models_dir: Path, model_version: str) -> None:
    """Point scoring to a release, which must be readable in full. A reader sees the old or the new one."""
    read_release(models_dir, model_version)
    path = Path(models_dir) / _CHAMPION_FILE
    write_whole(path, json.dumps({"model_version": model_version}) + "\n")


def list_releases(models_dir: Path) -> tuple[str, ...]:
    """The versions of the releases on disk, oldest first; drafts of interrupted writes are not among them."""
    directory = Path(models_dir) / _RELEASES
    if not directory.is_dir():
        return ()
    versions = (entry.name for entry in directory.iterdir() if _VERSION.fullmatch(entry.name))
    return tuple(sorted(versions, key=version_number))


def _read_model(directory: Path, entry: Mapping[str, Any]) -> ReleasedModel:
    path = directory / entry["file"]
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ReleaseError(
            f"The model file {path} is missing; {directory / _RELEASE_FILE} names it."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"The model file {path} cannot be read: {error}.") from error
    if checksum(text) != entry["sha256"]:
        raise ReleaseError(f"The model file {path} is not the one that was released: its checksum differs.")
    calibration = entry["calibration"]
    model = ReleasedModel(
        name=entry["name"],
        feature_service=entry["feature_service"],
        features=tuple(entry["features"]),
        booster_text=text,
        calibration=None
        if calibration is None
        else Calibration(calibration["slope"], calibration["intercept"]),
        lower=entry["lower"],
        upper=entry["upper"],
        held_out=entry["held_out"],
        origin_version=entry["origin_version"],
    )
    try:
        trained_on = model.trees.feature_names
    except UnsupportedModelError as error:
        raise ReleaseError(f"The model file {path} cannot be scored: {error}") from error
    except (ValueError, LookupError) as error:
        raise ReleaseError(f"The model file {path} is not a LightGBM model: {error}.") from error
    if trained_on != model.features:
        differing = sorted(set(trained_on) ^ set(model.features)) or ["the order"]
        raise ReleaseError(
            f"The model file {path} was trained on other features than {_RELEASE_FILE} lists: "
            f"{', '.join(differing)}."
        )
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ReleaseError(f"{path} is missing.") from None
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ReleaseError(f"{path} cannot be read: it holds no JSON object.")
    return content


def checksum(text: str) -> str:
    """The SHA-256 of a file of a release, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
