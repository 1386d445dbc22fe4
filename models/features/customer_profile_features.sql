with sums as (
    select * from {{ ref('int_customer_sums') }}
),

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

final as (
    select
        sums.customer_id,
        sums.feature_timestamp,
        cast({{ whole_days('sums.signed_up_at', 'sums.snapshot_date') }} as integer) as customer_tenure_days,
        profiles.subscription_tier,
        profiles.acquisition_channel,
        profiles.grade_level
    from sums
    inner join profiles
        on
            sums.customer_id = profiles.customer_id
            and sums.feature_timestamp = profiles.feature_timestamp
)

select * from final
