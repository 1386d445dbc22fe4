with sums as (
    select * from {{ ref('int_customer_sums') }}
),

final as (
    select
        customer_id,
        feature_timestamp,
        {%- for days in window_days() %}
        cast(logins_{{ days }}d as integer) as login_count_{{ days }}d,
        {%- endfor %}
        {%- for days in window_days() %}
        cast(messages_{{ days }}d as integer) as message_count_{{ days }}d,
        {%- endfor %}
        {%- for days in window_days() %}
        cast(active_days_{{ days }}d as integer) as active_days_{{ days }}d,
        {%- endfor %}
        {{ days_since('latest_login_on', 'snapshot_date') }} as days_since_last_login,
        logins_7d - logins_14d / cast(2.0 as double) as engagement_trend
    from sums
)

select * from final
