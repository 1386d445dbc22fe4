-- A customer is a student in a presentation term ('11391-2013J'). One row a customer and module; the tutor is the module's in
-- the student's region. `sampled_customers` holds the customers asked for with --students.
select
    student_registration.id_student || '-' || student_registration.code_presentation as customer_id,
    student_registration.id_student,
    student_registration.code_module,
    student_registration.code_presentation,
    student_registration.date_registration,
    student_info.studied_credits,
    student_registration.code_module || ' ' || student_info.region as tutor_id,
    presentations.starts_on,
    presentations.length_days,
    moment(presentations.starts_on, student_registration.date_registration) as registered_at
from student_registration
inner join presentations using (code_module, code_presentation)
inner join student_info using (code_module, code_presentation, id_student)
inner join sampled_customers
    on student_registration.id_student || '-' || student_registration.code_presentation = sampled_customers.customer_id
