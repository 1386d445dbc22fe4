-- The credits that the student takes in the term, paid with the registration. The currency is credits: no price is known.
select
    customer_id || '-C' as payment_id,
    customer_id,
    min(registered_at) as attempted_at,
    cast(max(studied_credits) as decimal(12, 2)) as amount,
    'credits' as currency,
    'succeeded' as status,
    min(registered_at) as updated_at,
    landed_after(min(registered_at)) as loaded_at
from registrations
group by customer_id
having min(registered_at) is not null
