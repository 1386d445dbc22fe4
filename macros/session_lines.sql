{#-
    Numbers for the order of sessions: two of them made one, by which rows are compared, grouped and joined several times
    as fast as by two columns. The first decides, then the second, which stays below a million.
-#}
{% macro million() -%}
    1000000
{%- endmacro %}

{% macro one_number(first, second) -%}
    ({{ first }}) * {{ million() }} + {{ second }}
{%- endmacro %}

{#- The place of a session in its line of sessions. -#}
{% macro session_place(line, position) -%}
    cast({{ one_number(line, position) }} as bigint)
{%- endmacro %}

{#- Orders the subjects of a line by their sessions so far, then by their last position, and says which subject it is. -#}
{% macro greatest_subject(sessions_of_subject, position, code) -%}
    {{ one_number(one_number(sessions_of_subject, position), 'coalesce(' ~ code ~ ', -1) + 1') }}
{%- endmacro %}

{#- The code of the subject in such a number. -#}
{% macro code_of_greatest_subject(greatest_subject) -%}
    cast(mod({{ greatest_subject }}, {{ million() }}) - 1 as integer)
{%- endmacro %}

{#- What stands for no beginning, and for no end. -#}
{% macro long_ago() -%}
    cast('1900-01-01' as date)
{%- endmacro %}

{% macro far_off() -%}
    cast('9999-12-31' as date)
{%- endmacro %}

{#- The greatest number of a line; none without any. -#}
{% macro greatest_line(lines) -%}
    {%- if is_incremental() and execute -%}
        {{ return(run_query('select max(line) from ' ~ lines).columns[0].values()[0]) }}
    {%- endif -%}
{%- endmacro %}

{#- The value, null or not, in the row of a group with the greatest position. -#}
{% macro value_at_greatest(value, position) -%}
    {{ return(adapter.dispatch('value_at_greatest')(value, position)) }}
{%- endmacro %}

{% macro default__value_at_greatest(value, position) -%}
    max_by({{ value }}, {{ position }})
{%- endmacro %}

{#- DuckDB's max_by passes over rows whose value is null. -#}
{% macro duckdb__value_at_greatest(value, position) -%}
    arg_max_null({{ value }}, {{ position }})
{%- endmacro %}
