with tiers as (
    select
        tier,
        min_score,
        action
    from {{ ref('health_tiers') }}
),

customers as (
    select
        health_tier,
        churn_risk_14d,
        churn_risk_30d,
        health_score,
        session_velocity,
        tier_change_since_last_week,
        total_spend_lifetime,
        payment_amount_30d
    from {{ ref('customer_health_current') }}
    where health_tier is not null
),

final as (
    select
        tiers.tier as health_tier,
        tiers.min_score,
        tiers.action,
        count(customers.health_tier) as customers,
        -- Null, not 0, while nobody is scored
        cast(count(customers.health_tier) as double)
        / nullif(sum(count(customers.health_tier)) over (), 0) as share_of_customers,
        avg(customers.churn_risk_14d) as average_churn_risk_14d,
        avg(customers.churn_risk_30d) as average_churn_risk_30d,
        avg(customers.health_score) as average_health_score,
        avg(customers.session_velocity) as average_session_velocity,
        count(case when customers.tier_change_since_last_week = 'improved' then 1 end) as improved_since_last_week,
        count(case when customers.tier_change_since_last_week = 'worsened' then 1 end) as worsened_since_last_week,
        coalesce(sum(customers.total_spend_lifetime), 0) as total_spend_lifetime,
        coalesce(sum(customers.payment_amount_30d), 0) as payment_amount_30d,
        coalesce(sum(customers.payment_amount_30d * customers.churn_risk_30d), 0) as payment_amount_30d_at_risk
    from tiers
    left join customers
        on tiers.tier = customers.health_tier
    group by
        tiers.tier,
        tiers.min_score,
        tiers.action
)

select * from final
