with outcomes as (
    select * from {{ ref('int_session_outcomes') }}
),

ratings as (
    select * from {{ ref('int_session_ratings') }}
),

session_versions as (
    select
        customer_id,
        booked_at,
        confirmed_at,
        in_force_from,
        in_force_until
    from {{ ref('stg_sessions') }}
),

calls as (
    select
        customer_id,
        called_at,
        sentiment_score,
        in_force_from,
        in_force_until
    from {{ ref('stg_calls') }}
    where direction = 'inbound'
),

app_events as (
    select
        customer_id,
        occurred_at,
        event_type,
        in_force_from,
        in_force_until
    from {{ ref('stg_app_events') }}
),

payments as (
    select
        customer_id,
        attempted_at,
        status,
        amount,
        in_force_from,
        in_force_until
    from {{ ref('stg_payments') }}
    where status <> 'pending'
),

customers as (
    select
        customer_id,
        signed_up_at,
        in_force_from,
        in_force_until
    from {{ ref('stg_customers') }}
),

outcome_facts as (
    select
        customer_id,
        resolved_at as event_at,
        visible_from,
        visible_until,
        case when status = 'completed' then 'completed_session' end as latest_kind,
        status = 'completed' as is_activity,
        {{ carried_quantities({
            'completed_sessions': "case when status = 'completed' then 1 else 0 end",
            'customer_cancellations': "case when status = 'cancelled_by_customer' then 1 else 0 end",
            'no_shows': "case when status = 'no_show' then 1 else 0 end",
            'resolved_sessions': '1',
            'duration_minutes': "case when status = 'completed' then coalesce(duration_minutes, 0) else 0 end",
            'timed_sessions': "case when status = 'completed' and duration_minutes is not null then 1 else 0 end",
            'active_facts': "case when status = 'completed' then 1 else 0 end",
        }) }}
    from outcomes
),

rating_facts as (
    select
        customer_id,
        rated_at as event_at,
        visible_from,
        visible_until,
        cast(null as varchar) as latest_kind,
        false as is_activity,
        {{ carried_quantities({'rating_stars': 'rating', 'ratings': '1'}) }}
    from ratings
),

confirmation_facts as (
    select
        customer_id,
        confirmed_at as event_at,
        {{ visible_from('confirmed_at') }} as visible_from,
        in_force_until as visible_until,
        cast(null as varchar) as latest_kind,
        false as is_activity,
        {{ carried_quantities({
            'response_microseconds': dbt.datediff('booked_at', 'confirmed_at', 'microsecond'),
            'confirmations': '1',
        }) }}
    from session_versions
    where
        confirmed_at is not null
        and {{ is_ever_visible('confirmed_at') }}
),

call_facts as (
    select
        customer_id,
        called_at as event_at,
        {{ visible_from('called_at') }} as visible_from,
        in_force_until as visible_until,
        'inbound_call' as latest_kind,
        true as is_activity,
        {{ carried_quantities({
            'inbound_calls': '1',
            'negative_calls': 'case when sentiment_score < ' ~ var('negative_sentiment') ~ ' then 1 else 0 end',
        }) }}
    from calls
    where {{ is_ever_visible('called_at') }}
),

app_event_facts as (
    select
        customer_id,
        occurred_at as event_at,
        {{ visible_from('occurred_at') }} as visible_from,
        in_force_until as visible_until,
        case when event_type = 'login' then 'login' end as latest_kind,
        true as is_activity,
        {{ carried_quantities({
            'logins': "case when event_type = 'login' then 1 else 0 end",
            'messages': "case when event_type = 'message_sent' then 1 else 0 end",
            'active_facts': '1',
        }) }}
    from app_events
    where {{ is_ever_visible('occurred_at') }}
),

payment_facts as (
    select
        customer_id,
        attempted_at as event_at,
        {{ visible_from('attempted_at') }} as visible_from,
        in_force_until as visible_until,
        case when status = 'succeeded' then 'succeeded_payment' end as latest_kind,
        status in ('succeeded', 'failed') as is_activity,
        {{ carried_quantities({
            'succeeded_payments': "case when status = 'succeeded' then 1 else 0 end",
            'failed_payments': "case when status = 'failed' then 1 else 0 end",
            'net_amount':
                "case status when 'succeeded' then coalesce(amount, 0) when 'refunded' then -coalesce(amount, 0) else 0 end",
        }) }}
    from payments
    where {{ is_ever_visible('attempted_at') }}
),

signup_facts as (
    select
        customer_id,
        signed_up_at as event_at,
        {{ visible_from('signed_up_at') }} as visible_from,
        in_force_until as visible_until,
        cast(null as varchar) as latest_kind,
        true as is_activity,
        {{ carried_quantities({}) }}
    from customers
    where {{ is_ever_visible('signed_up_at') }}
),

final as (
    select * from outcome_facts
    union all
    select * from rating_facts
    union all
    select * from confirmation_facts
    union all
    select * from call_facts
    union all
    select * from app_event_facts
    union all
    select * from payment_facts
    union all
    select * from signup_facts
)

select * from final
