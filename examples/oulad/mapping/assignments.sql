-- One row a registration and assessment that was asked of it: due after the registration or handed in all the same. An
-- assessment without a single result (most exams) is not in the source, and a result carried over from an earlier
-- presentation (banked) is no behaviour in this one: neither gives a row. An exam without a date is on the last day.
with results as (
    select
        id_assessment,
        id_student,
        is_banked,
        date_submitted,
        score
    from student_assessment
),

asked as (
    select
        id_assessment,
        code_module,
        code_presentation,
        assessment_type,
        date
    from assessments
    where id_assessment in (select id_assessment from results)
)

select
    registrations.customer_id,
    registrations.code_module,
    registrations.tutor_id,
    registrations.customer_id || '-A' || asked.id_assessment as session_id,
    asked.assessment_type = 'CMA' as is_marked_by_computer,
    moment(registrations.starts_on, coalesce(asked.date, registrations.length_days)) as due_at,
    moment(registrations.starts_on, results.date_submitted) as submitted_at,
    -- What a presentation asks is known when it starts, and to a late-comer when he registers.
    least(
        greatest(moment(registrations.starts_on, 0), registrations.registered_at),
        coalesce(moment(registrations.starts_on, results.date_submitted), timestamp '9999-01-01')
    ) as booked_at,
    stars(results.score) as rating
from registrations
inner join asked using (code_module, code_presentation)
left join results using (id_assessment, id_student)
where
    not coalesce(results.is_banked, false)
    and (
        results.date_submitted is not null
        or coalesce(asked.date, registrations.length_days) >= registrations.date_registration
    )
