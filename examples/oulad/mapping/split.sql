-- The split in time by presentation, for `python -m training --split`. `terms` are the presentation terms that do not overlap,
-- numbered from the last: report on the last, choose with the one before, fit on all before that.
select
    customer_id,
    case terms.number_from_last
        when 1 then 'report'
        when 2 then 'choose'
        else 'fit'
    end as block,
    customer_periods.starts_on as first_day,
    customer_periods.ends_on as last_day
from customer_periods
inner join terms using (code_presentation)
order by customer_id
