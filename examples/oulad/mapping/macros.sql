-- The source knows days, not hours: a day's event is dated to its noon and lands at two in the following night.
create macro moment(starts_on, day) as cast(starts_on as timestamp) + to_days(day) + interval 12 hours;
create macro landed_after(moment) as date_trunc('day', moment) + interval 26 hours;

-- The university's own grades: fail below 40, then pass 4, 3, 2 and 1 from 40, 55, 70 and 85 per cent on.
create macro stars(score) as
    case
        when score < 40 then 1
        when score < 55 then 2
        when score < 70 then 3
        when score < 85 then 4
        when score <= 100 then 5
    end;

-- A quarter of the tutor-marked work comes after its date, nearly all of that within a fortnight: only then is it missed.
create macro missed_after(due_at) as due_at + interval 14 days;

-- There is no date of marking. A tutor has ten working days; a computer has none.
create macro marked_after(submitted_at, by_computer) as
    submitted_at + case when by_computer then interval 0 days else interval 14 days end;
