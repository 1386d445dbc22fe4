{{ config(materialized='view') }}
with
{#- A CTE a reading: DuckDB keeps the rows of one that is read several times. -#}
{%- for name, feed in {
    'outcomes': 'sessions', 'rated_sessions': 'sessions', 'confirmed_sessions': 'sessions',
    'calls': 'calls', 'app_events': 'app_events', 'payments': 'payments', 'customers': 'customers',
}.items() %}
{{ name }} as (
    select
        *,
        {{ customer_key('customer_id') }} as customer_key
    from {{ ref('base_' ~ feed) }}
    where {{ is_version() }}
),

{% endfor -%}
outcome_facts as (
    select
        customer_key,
        resolved_at as event_at,
        {{ visible_from('resolved_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in,
        {{ carried_quantities({
            'completed_sessions': "case when status = 'completed' then 1 else 0 end",
            'customer_cancellations': "case when status = 'cancelled_by_customer' then 1 else 0 end",
            'no_shows': "case when status = 'no_show' then 1 else 0 end",
            'resolved_sessions': '1',
            'duration_minutes': "case when status = 'completed' then coalesce(duration_minutes, 0) else 0 end",
            'timed_sessions': "case when status = 'completed' and duration_minutes is not null then 1 else 0 end",
            'active_facts': "case when status = 'completed' then 1 else 0 end",
            'signs_of_life': "case when status = 'completed' then 1 else 0 end",
        }) }}
    from outcomes
    where
        status <> 'scheduled'
        and {{ is_ever_visible('resolved_at') }}
),

rating_facts as (
    select
        customer_key,
        rated_at as event_at,
        {{ visible_from('rated_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in,
        {{ carried_quantities({'rating_stars': 'rating', 'ratings': '1'}) }}
    from rated_sessions
    where
        rating is not null
        and {{ is_ever_visible('rated_at') }}
),

confirmation_facts as (
    select
        customer_key,
        confirmed_at as event_at,
        {{ visible_from('confirmed_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in,
        {{ carried_quantities({
            'response_microseconds': dbt.datediff('booked_at', 'confirmed_at', 'microsecond'),
            'confirmations': '1',
        }) }}
    from confirmed_sessions
    where
        confirmed_at is not null
        and {{ is_ever_visible('confirmed_at') }}
),

call_facts as (
    select
        customer_key,
        called_at as event_at,
        {{ visible_from('called_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in,
        {{ carried_quantities({
            'inbound_calls': '1',
            'signs_of_life': '1',
            'negative_calls': 'case when sentiment_score < ' ~ var('negative_sentiment') ~ ' then 1 else 0 end',
        }) }}
    from calls
    where
        direction = 'inbound'
        and {{ is_ever_visible('called_at') }}
),

app_event_facts as (
    select
        customer_key,
        occurred_at as event_at,
        {{ visible_from('occurred_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in,
        {{ carried_quantities({
            'logins': "case when event_type = 'login' then 1 else 0 end",
            'messages': "case when event_type = 'message_sent' then 1 else 0 end",
            'active_facts': '1',
            'signs_of_life': '1',
        }) }}
    from app_events
    where {{ is_ever_visible('occurred_at') }}
),

payment_facts as (
    select
        customer_key,
        attempted_at as event_at,
        {{ visible_from('attempted_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in,
        {{ carried_quantities({
            'succeeded_payments': "case when status = 'succeeded' then 1 else 0 end",
            'failed_payments': "case when status = 'failed' then 1 else 0 end",
            'signs_of_life': "case when status in ('succeeded', 'failed') then 1 else 0 end",
            'net_amount':
                "case status when 'succeeded' then coalesce(amount, 0) when 'refunded' then -coalesce(amount, 0) else 0 end",
        }) }}
    from payments
    where
        status <> 'pending'
        and {{ is_ever_visible('attempted_at') }}
),

signup_facts as (
    select
        customer_key,
        signed_up_at as event_at,
        {{ visible_from('signed_up_at') }} as visible_from,
        in_force_until as visible_until,
        recorded_in,
        replaced_in,
        written_in,
        {{ carried_quantities({'signs_of_life': '1'}) }}
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
