-- A day with any click is a login, a day in the forum a message.
with days as (
    select
        customer_id,
        happened_at,
        bool_or(has_forum) as has_forum
    from clicked_days
    group by all
)

select
    customer_id || '-L' || cast(happened_at as date) as event_id,
    customer_id,
    happened_at as occurred_at,
    'login' as event_type,
    landed_after(happened_at) as loaded_at
from days
union all
select
    customer_id || '-M' || cast(happened_at as date) as event_id,
    customer_id,
    happened_at as occurred_at,
    'message_sent' as event_type,
    landed_after(happened_at) as loaded_at
from days
where has_forum
