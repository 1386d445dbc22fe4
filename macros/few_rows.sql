{#-
    All rows of a CTE that are many on a first run and few in a night. DuckDB guesses how many they are from the tables that were
    read for them, and behind some joins guesses billions; its windows then prepare a thousand partitions for ten thousand rows.
    A list is one row to it, and what comes out of one is taken for few.
-#}
{% macro few_rows(cte) -%}
    {%- if is_incremental() -%}
        {{ return(adapter.dispatch('few_rows')(cte)) }}
    {%- endif -%}
    select * from {{ cte }}
{%- endmacro %}

{% macro default__few_rows(cte) -%}
    select * from {{ cte }}
{%- endmacro %}

{% macro duckdb__few_rows(cte) -%}
    select unnest(listed.all_rows, recursive := true)
    from (select list({{ cte }}) as all_rows from {{ cte }}) as listed
{%- endmacro %}
