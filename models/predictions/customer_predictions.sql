{#-
    Append-only: a snapshot is scored once by a model version, and no row is ever changed or removed, not even by
    --full-refresh. The champion scores what lies after its training data and what it has not scored yet; so a nightly run
    adds its day, a missed day is made up for, and a new champion also scores the weeks on which it can be judged.
-#}
{{ config(
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='append_new_columns',
    full_refresh=false,
    post_hook={'sql': "{{ export_predictions(this, ref('model_versions')) }}", 'transaction': false},
) }}
{{- check_champion(ref('model_versions')) -}}
with champion as (
    select
        model_version,
        trained_until
    from {{ ref('model_versions') }}
    where is_champion
),

features as (
    select * from {{ ref('customer_features') }}
),

tiers as (
    select
        tier,
        min_score,
        max_score,
        max_score = max(max_score) over () as is_highest
    from {{ ref('health_tiers') }}
),

{% if is_incremental() -%}
scored_before as (
    select distinct
        feature_timestamp,
        model_version
    from {{ this }}
),

{% endif -%}
due_snapshots as (
    select distinct features.feature_timestamp
    from features
    inner join champion
        on features.feature_timestamp > champion.trained_until
    {%- if is_incremental() %}
    left join scored_before
        on
            features.feature_timestamp = scored_before.feature_timestamp
            and champion.model_version = scored_before.model_version
    where scored_before.feature_timestamp is null
    {%- endif %}
),

-- Exactly the columns of customer_features: the scoring functions take its rows whole.
due as (
    select features.*
    from features
    where features.feature_timestamp in (select feature_timestamp from due_snapshots)
),

answers as (
    {{ scored_rows('due') }}
),

predictions as (
    select
        customer_id,
        feature_timestamp,
        churn_risk_14d,
        churn_risk_30d,
        health_score,
        session_velocity,
        case when total_sessions_lifetime = 0 then first_session_success end as first_session_success,
        reason_1,
        reason_1_effect,
        reason_2,
        reason_2_effect,
        reason_3,
        reason_3_effect
    from answers
),

final as (
    select
        predictions.customer_id,
        predictions.feature_timestamp,
        champion.model_version,
        predictions.churn_risk_14d,
        predictions.churn_risk_30d,
        predictions.health_score,
        predictions.session_velocity,
        predictions.first_session_success,
        tiers.tier as health_tier,
        predictions.reason_1,
        predictions.reason_1_effect,
        predictions.reason_2,
        predictions.reason_2_effect,
        predictions.reason_3,
        predictions.reason_3_effect,
        cast('{{ run_started_at.strftime("%Y-%m-%d %H:%M:%S") }}' as timestamp) as scored_at,
        '{{ invocation_id }}' as run_id
    from predictions
    cross join champion
    -- A lower bound belongs to its tier, an upper bound to the next; above the highest tier lies nothing.
    left join tiers
        on
            predictions.health_score >= tiers.min_score
            and (predictions.health_score < tiers.max_score or tiers.is_highest)
)

select * from final
