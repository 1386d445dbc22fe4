-- A day in a live room is a call that the student made. Nothing more is known of it.
select
    customer_id || '-' || code_module || '-R' || date as call_id,
    customer_id,
    happened_at as called_at,
    'inbound' as direction,
    cast(null as integer) as duration_seconds,
    'other' as reason,
    cast(null as double) as sentiment_score,
    cast(null as boolean) as escalated,
    landed_after(happened_at) as loaded_at
from clicked_days
where has_live_room
