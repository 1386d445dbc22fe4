"""Predictions and reasons for feature rows: an Arrow struct array in, an Arrow struct array out.

This is the boundary between the database and the models; `scoring.functions` puts it behind SQL.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from scoring.release import MODEL_NAMES, Release, in_order

REASON_COUNT = 3
REASON_MODEL = "churn_risk_30d"

PREDICTION_TYPE = pa.struct([(name, pa.float64()) for name in MODEL_NAMES])
EXPLANATION_TYPE = pa.struct(
    [
        field
        for number in range(1, REASON_COUNT + 1)
        for field in ((f"reason_{number}", pa.string()), (f"reason_{number}_effect", pa.float64()))
    ]
)


def predict_rows(release: Release, rows: pa.StructArray, columns: Sequence[str]) -> pa.StructArray:
    """All predictions a row, of type PREDICTION_TYPE, in the order of `rows`; null where there is no model.

    `rows` has a numeric field for each name in `columns` (the features, in catalog order), maybe others too.
    The values are those of `Release.predict`, bit for bit, computed by `scoring.kernel`. A row that is null,
    or in which any feature is null, gives a null row: a feature is never null by contract, and a guess for
    one would not be the model's prediction. `first_session_success` is predicted for every row; only before
    a first completed session does it mean anything.
    """
    outputs, incomplete = release.kernel.outputs(rows, columns)
    predictions = in_order(
        {
            name: model.finished(output)
            for (name, model), output in zip(release.models.items(), outputs, strict=True)
        }
    )
    return pa.StructArray.from_arrays(
        [
            pa.array(predictions[name]) if name in predictions else pa.nulls(len(rows), pa.float64())
            for name in MODEL_NAMES
        ],
        fields=list(PREDICTION_TYPE),
        mask=_mask(incomplete),
    )


def explain_rows(release: Release, rows: pa.StructArray, columns: Sequence[str]) -> pa.StructArray:
    """The three features that move each row's 30-day churn risk most, of type EXPLANATION_TYPE.

    Effects are exact TreeSHAP contributions (`scoring.reasons`) to the calibrated log-odds, signed: above 0
    raises the risk. Reasons come in descending order of |effect|; of equal ones the first in `columns`
    leads. Null rows as in `predict_rows`.
    """
    model = release.models[REASON_MODEL]
    effects, incomplete = model.explainer.contributions(rows, columns)
    effects = effects.T
    if model.calibration is not None:
        effects = effects * model.calibration.slope
    position = {name: index for index, name in enumerate(columns)}
    used = np.array([position[name] for name in model.features])

    # Columns in catalog order, so that a stable sort settles ties by it, however the model orders them.
    by_catalog = np.argsort(used)
    effects = effects[:, by_catalog]
    features = pa.array([columns[index] for index in used[by_catalog]])
    greatest = np.argsort(-np.abs(effects), axis=1, kind="stable")[:, :REASON_COUNT]

    fields: list[pa.Array] = []
    for rank in range(REASON_COUNT):
        if rank < greatest.shape[1]:
            chosen = greatest[:, rank]
            fields.append(features.take(pa.array(chosen)))
            fields.append(pa.array(np.take_along_axis(effects, chosen[:, None], axis=1)[:, 0]))
        else:  # a model of fewer than three features has no third reason
            fields.append(pa.nulls(len(rows), pa.string()))
            fields.append(pa.nulls(len(rows), pa.float64()))
    return pa.StructArray.from_arrays(fields, fields=list(EXPLANATION_TYPE), mask=_mask(incomplete))


def _mask(incomplete: np.ndarray | None) -> pa.BooleanArray | None:
    return None if incomplete is None else pa.array(incomplete)
