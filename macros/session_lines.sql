{#-
    Numbers for int_customer_session_order: two of them made one, by which rows are compared, grouped and joined several times
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
