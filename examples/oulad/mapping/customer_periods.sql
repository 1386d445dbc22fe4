-- The period of each customer in which leaving means something: from the start of the term to the end of the last of the
-- customer's modules. When a course is over everybody stops.
select
    customer_id,
    code_presentation,
    min(presentations.starts_on) as starts_on,
    max(presentations.ends_on) as ends_on
from registrations
inner join presentations using (code_module, code_presentation)
group by all
