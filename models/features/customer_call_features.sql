with sums as (
    select * from {{ ref('int_customer_sums') }}
),

final as (
    select
        customer_id,
        feature_timestamp,
        {%- for days in window_days() %}
        cast(inbound_calls_{{ days }}d as integer) as ib_call_count_{{ days }}d,
        {%- endfor %}
        {%- for days in window_days() %}
        cast(negative_calls_{{ days }}d as integer) as negative_calls_{{ days }}d,
        {%- endfor %}
        {{ days_since('latest_inbound_call_on', 'snapshot_date') }} as days_since_last_ib_call
    from sums
)

select * from final
