-- One tutor a module and region, known from the first registration on.
select
    tutor_id,
    cast(null as timestamp) as joined_at,
    min(code_module) as subjects,
    cast(null as timestamp) as updated_at,
    landed_after(min(coalesce(registered_at, moment(starts_on, 0)))) as loaded_at
from registrations
group by tutor_id
