{#-
    Numbers for the order of sessions: two of them made one, by which rows are compared, grouped and joined several times
    as fast as by two columns. The first decides, then the second, which stays below a million.
-#}
{% macro million() -%}
    1000000
{%- endmacro %}

{% macro one_number(first, second) -%}
    {{ first }} * {{ million() }} + {{ second }}
{%- endmacro %}

{#- The place of a session in its line of sessions. -#}
{% macro session_place(line, position) -%}
    cast({{ one_number(line, position) }} as bigint)
{%- endmacro %}

{#- What stands for no beginning, and for no end. -#}
{% macro long_ago() -%}
    cast('1900-01-01' as date)
{%- endmacro %}

{% macro far_off() -%}
    cast('9999-12-31' as date)
{%- endmacro %}

{#- The last run that added to the lines of sessions, and the greatest number of a line; none on a first run. -#}
{% macro last_laid_out(lines) -%}
    {%- if is_incremental() and execute -%}
        {%- set row = run_query('select max(recorded_in) as recorded_in, max(line) as line from ' ~ lines).rows[0] -%}
        {%- if row[0] is not none -%}
            {{ return({'recorded_in': row[0], 'line': row[1]}) }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
