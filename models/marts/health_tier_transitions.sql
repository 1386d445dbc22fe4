{%- set outside = "'not_in_scope'" -%}
with predictions as (
    select
        customer_id,
        feature_timestamp,
        model_version,
        health_tier
    from {{ ref('customer_predictions') }}
    where
        -- The weekly snapshots: Mondays, counted from one of them
        mod({{ dbt.datediff("cast('1900-01-01' as date)", 'cast(feature_timestamp as date)', 'day') }}, 7) = 0
),

scored_snapshots as (
    select distinct
        model_version,
        feature_timestamp
    from predictions
),

snapshots as (
    select
        model_version,
        feature_timestamp as to_snapshot,
        lag(feature_timestamp) over (partition by model_version order by feature_timestamp) as from_snapshot
    from scored_snapshots
),

-- Each prediction is one end of a move. Who enters or leaves the scope has one end only, and moves all the same.
ends as (
    select
        snapshots.model_version,
        snapshots.from_snapshot,
        snapshots.to_snapshot,
        predictions.customer_id,
        cast(null as varchar) as from_tier,
        predictions.health_tier as to_tier
    from snapshots
    inner join predictions
        on
            snapshots.model_version = predictions.model_version
            and snapshots.to_snapshot = predictions.feature_timestamp
    where snapshots.from_snapshot is not null
    union all
    select
        snapshots.model_version,
        snapshots.from_snapshot,
        snapshots.to_snapshot,
        predictions.customer_id,
        predictions.health_tier as from_tier,
        cast(null as varchar) as to_tier
    from snapshots
    inner join predictions
        on
            snapshots.model_version = predictions.model_version
            and snapshots.from_snapshot = predictions.feature_timestamp
),

moves as (
    select
        model_version,
        from_snapshot,
        to_snapshot,
        customer_id,
        coalesce(max(from_tier), {{ outside }}) as from_tier,
        coalesce(max(to_tier), {{ outside }}) as to_tier
    from ends
    group by
        model_version,
        from_snapshot,
        to_snapshot,
        customer_id
),

final as (
    select
        model_version,
        from_snapshot,
        to_snapshot,
        from_tier,
        to_tier,
        count(*) as customers
    from moves
    group by
        model_version,
        from_snapshot,
        to_snapshot,
        from_tier,
        to_tier
)

select * from final
