with sums as (
    select * from {{ ref('int_customer_sums') }}
),

session_order as (
    select * from {{ ref('int_customer_session_order') }}
),

-- Response time: the mean in seconds, then in hours
final as (
    select
        sums.customer_id,
        sums.feature_timestamp,
        cast(session_order.primary_subject as integer) as primary_subject,
        session_order.tutor_consistency_score,
        session_order.primary_tutor_rating,
        cast(session_order.tutor_switches as integer) as tutor_switch_count_30d,
        coalesce(
            {{ ratio(
                '(sums.response_microseconds_30d / cast(1e6 as double))', 'sums.confirmations_30d',
                otherwise=ratio(
                    '(sums.response_microseconds_lifetime / cast(1e6 as double))', 'sums.confirmations_lifetime',
                    otherwise='null'
                )
            ) }} / 3600,
            {{ var('neutral_response_hours') }}
        ) as avg_tutor_response_time_hours
    from sums
    inner join session_order
        on
            sums.customer_id = session_order.customer_id
            and sums.feature_timestamp = session_order.feature_timestamp
)

select * from final
