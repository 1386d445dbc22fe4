-- The first registration of the term is the signup. The one registration without a date is delivered without a signup, at the
-- start of its presentation, for the contract to set aside.
select
    customer_id,
    min(registered_at) as signed_up_at,
    cast(null as varchar) as subscription_tier,
    cast(null as varchar) as acquisition_channel,
    'college' as grade_level,
    min(registered_at) as updated_at,
    landed_after(coalesce(min(registered_at), moment(min(starts_on), 0))) as loaded_at
from registrations
group by customer_id
