"""Fresh rows to the online store, through Feast's push path."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pandas as pd
from feast import FeatureStore, FeatureView

from feature_repo.catalog import load_catalog
from feature_repo.store import open_store, registered_views
from streaming.errors import StreamError


class Online:
    """The feature views of the store that take pushes."""

    def __init__(self, store: FeatureStore | None = None) -> None:
        self._store = store or open_store()
        self._views = self._registered()

    def publish(self, rows: pd.DataFrame, known_at: Mapping[str, datetime]) -> None:
        """Push the rows (features and predictions, one a customer) as of the times by which they were
        known.

        A view gets no row of a customer for whom it has nothing but nulls: predictions where no champion
        scores.
        """
        catalog = load_catalog()
        moments = rows[catalog.entity_key].map(known_at).dt.tz_localize(UTC)
        for view in self._views:
            names = [field.name for field in view.features]
            frame = rows[[catalog.entity_key, *names]].assign(**{catalog.timestamp: moments})
            frame = frame[frame[names].notna().any(axis="columns")]
            if len(frame):
                # What FeatureStore.push comes down to. Before and after that, push reads all views and
                # services out of the registry, seven times an event: nine tenths of the time that an event
                # took.
                self._store.write_to_online_store(view.name, frame)

    def _registered(self) -> list[FeatureView]:
        views = registered_views(self._store)
        without = [view.name for view in views if view.stream_source is None]
        if without:
            raise StreamError(
                f"Feast knows no push source for {', '.join(without)}; run `python -m feature_repo "
                "apply` first."
            )
        return views
