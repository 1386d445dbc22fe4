-- One row a registration and day with any click, and what was clicked that day.
select
    registrations.customer_id,
    registrations.code_module,
    registrations.tutor_id,
    student_vle.date,
    moment(registrations.starts_on, student_vle.date) as happened_at,
    bool_or(vle.activity_type not in ('homepage', 'forumng', 'ouelluminate', 'oucollaborate')) as has_content,
    bool_or(vle.activity_type = 'forumng') as has_forum,
    bool_or(vle.activity_type in ('ouelluminate', 'oucollaborate')) as has_live_room
from student_vle
inner join registrations using (code_module, code_presentation, id_student)
inner join vle using (code_module, code_presentation, id_site)
group by all
