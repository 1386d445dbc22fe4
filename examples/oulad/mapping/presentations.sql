-- A presentation is one run of a module. Its code names the year and the month of its start (B: February, J: October); days are
-- counted from the start, which we take for the first of that month. One row a presentation whose clicks we have in full:
-- up to a week before its last day or later.
with started as (
    select
        code_module,
        code_presentation,
        module_presentation_length as length_days,
        make_date(
            cast(left(code_presentation, 4) as integer),
            case right(code_presentation, 1)
                when 'B' then 2
                when 'J' then 10
                else error('Presentation ' || code_presentation || ' starts in no month that we know (B or J)')
            end,
            1
        ) as starts_on
    from courses
),

last_clicks as (
    select
        code_module,
        code_presentation,
        max(date) as last_day
    from student_vle
    group by all
)

select
    started.*,
    cast(starts_on + length_days as date) as ends_on
from started
inner join last_clicks using (code_module, code_presentation)
where last_day >= length_days - 7
