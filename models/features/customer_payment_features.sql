with sums as (
    select * from {{ ref('int_customer_sums') }}
),

windowed as (
    select
        customer_id,
        feature_timestamp,
        {%- for days in window_days() %}
        {{ ratio(
            'succeeded_payments_' ~ days ~ 'd', '(succeeded_payments_' ~ days ~ 'd + failed_payments_' ~ days ~ 'd)',
            otherwise=ratio(
                'succeeded_payments_lifetime', '(succeeded_payments_lifetime + failed_payments_lifetime)', otherwise=1.0
            )
        ) }} as payment_success_rate_{{ days }}d,
        {%- endfor %}
        {%- for days in window_days() %}
        cast(net_amount_{{ days }}d as double) as payment_amount_{{ days }}d,
        {%- endfor %}
        {{ days_since('latest_succeeded_payment_on', 'snapshot_date') }} as days_since_last_payment,
        cast(net_amount_lifetime as double) as total_spend_lifetime
    from sums
),

final as (
    select
        customer_id,
        feature_timestamp,
        {%- for name in ['payment_success_rate', 'payment_amount'] %}
        {%- for days in window_days() %}
        {{ name }}_{{ days }}d,
        {%- endfor %}
        {%- endfor %}
        days_since_last_payment,
        total_spend_lifetime,
        payment_amount_7d / 7 - payment_amount_30d / 30 as spend_acceleration
    from windowed
)

select * from final
