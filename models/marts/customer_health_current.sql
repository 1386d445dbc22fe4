with features as (
    select
        customer_id,
        feature_timestamp,
        total_spend_lifetime,
        payment_amount_30d
    from {{ ref('customer_features') }}
),

labels as (
    select
        customer_id,
        feature_timestamp,
        health_index,
        segment
    from {{ ref('customer_labels') }}
),

champion as (
    select model_version
    from {{ ref('model_versions') }}
    where is_champion
),

predictions as (
    select customer_predictions.*
    from {{ ref('customer_predictions') }} as customer_predictions
    inner join champion
        on customer_predictions.model_version = champion.model_version
),

tiers as (
    select
        tier,
        min_score,
        action
    from {{ ref('health_tiers') }}
),

present as (
    select max(feature_timestamp) as feature_timestamp from features
),

scored_snapshots as (
    select distinct feature_timestamp from predictions
),

-- The snapshots to compare with: the latest scored ones at least a week and at least 30 days back
compared_with as (
    select
        max(case
            when
                scored_snapshots.feature_timestamp
                <= {{ dbt.dateadd('day', -7, 'present.feature_timestamp') }}
                then scored_snapshots.feature_timestamp
        end) as last_week,
        max(case
            when
                scored_snapshots.feature_timestamp
                <= {{ dbt.dateadd('day', -30, 'present.feature_timestamp') }}
                then scored_snapshots.feature_timestamp
        end) as last_month
    from scored_snapshots
    cross join present
),

last_week as (
    select
        customer_id,
        health_tier
    from predictions
    where feature_timestamp = (select last_week from compared_with)
),

last_month as (
    select
        customer_id,
        health_tier
    from predictions
    where feature_timestamp = (select last_month from compared_with)
),

final as (
    select
        features.customer_id,
        features.feature_timestamp,
        predictions.model_version,
        predictions.health_tier,
        tiers.action,
        predictions.health_score,
        predictions.churn_risk_14d,
        predictions.churn_risk_30d,
        predictions.session_velocity,
        predictions.first_session_success,
        predictions.reason_1,
        predictions.reason_1_effect,
        predictions.reason_2,
        predictions.reason_2_effect,
        predictions.reason_3,
        predictions.reason_3_effect,
        last_week.health_tier as tier_last_week,
        {{ tier_change('tiers.min_score', 'tiers_last_week.min_score') }} as tier_change_since_last_week,
        last_month.health_tier as tier_last_month,
        {{ tier_change('tiers.min_score', 'tiers_last_month.min_score') }} as tier_change_since_last_month,
        labels.health_index,
        labels.segment,
        features.total_spend_lifetime,
        features.payment_amount_30d
    from features
    inner join present
        on features.feature_timestamp = present.feature_timestamp
    left join labels
        on
            features.customer_id = labels.customer_id
            and features.feature_timestamp = labels.feature_timestamp
    left join predictions
        on
            features.customer_id = predictions.customer_id
            and features.feature_timestamp = predictions.feature_timestamp
    left join last_week
        on features.customer_id = last_week.customer_id
    left join last_month
        on features.customer_id = last_month.customer_id
    left join tiers
        on predictions.health_tier = tiers.tier
    left join tiers as tiers_last_week
        on last_week.health_tier = tiers_last_week.tier
    left join tiers as tiers_last_month
        on last_month.health_tier = tiers_last_month.tier
)

select * from final
