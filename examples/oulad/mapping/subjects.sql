-- Each module is a subject; its code is its place in the alphabet of all modules, whichever we have clicks of.
select
    code_module as subject,
    cast(row_number() over (order by code_module) - 1 as integer) as code
from (select distinct code_module from courses) as modules
order by code
