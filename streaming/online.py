"""Fresh rows to the online store, through Feast's push path."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from feast import FeatureStore, FeatureView

from feature_repo.catalog import load_catalog
from feature_repo.store import open_store, progress_mark, registered_views
from streaming.errors import StreamError


class Online:
    """The feature views of the store that take pushes."""

    def __init__(self, store: FeatureStore | None = None) -> None:
        self._store = store or open_store()
        self._views = self._registered()
        self._registry_state = self._state_of_registry()
        self._progress = self._materialized()

    def publish(self, rows: pd.DataFrame, known_at: Mapping[str, datetime]) -> None:
        """Push the rows (features and predictions, one a customer) as of the times by which they were known.

        A view gets no row of a customer for whom it has nothing but nulls: predictions where no champion scores.
        """
        catalog = load_catalog()
        moments = rows[catalog.entity_key].map(known_at).dt.tz_localize(UTC)
        for view in self._views:
            names = [field.name for field in view.features]
            frame = rows[[catalog.entity_key, *names]].assign(**{catalog.timestamp: moments})
            frame = frame[frame[names].notna().any(axis="columns")]
            if len(frame):
                # What FeatureStore.push comes down to. Before and after that, push reads all views and services out of
                # the registry, seven times an event: nine tenths of the time that an event took.
                self._store.write_to_online_store(view.name, frame)

    def was_materialized(self) -> bool:
        """Whether a materialization came to its end since this was asked last: it may have laid older rows over ours."""
        state = self._state_of_registry()
        if state == self._registry_state:
            return False
        self._store.refresh_registry()
        self._views = self._registered()
        self._registry_state = state
        progress = self._materialized()
        if progress == self._progress or len({mark for _, mark in progress}) > 1:  # other views are still to come
            return False
        self._progress = progress
        return True

    def _registered(self) -> list[FeatureView]:
        views = registered_views(self._store)
        without = [view.name for view in views if view.stream_source is None]
        if without:
            raise StreamError(
                f"Feast knows no push source for {', '.join(without)}; run `python -m feature_repo apply` first."
            )
        return views

    def _materialized(self) -> list[tuple[int, datetime | None]]:
        """How often and how far each view was materialized."""
        return [(len(view.materialization_intervals), progress_mark(view)) for view in self._views]

    def _state_of_registry(self) -> tuple[int, int] | None:
        path = Path(self._store.config.registry.path)
        if not path.is_absolute():
            path = Path(self._store.repo_path) / path
        try:
            state = path.stat()
        except OSError:  # a registry in a database: asked anew each time would cost more than it is worth
            return None
        return state.st_mtime_ns, state.st_size
