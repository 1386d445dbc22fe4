{#-
    The snapshots that a model does not hold yet: all on a first run, the new ones in a nightly run. A snapshot that is
    written is never computed again, and one that a killed or missed run left out is made up for.
-#}
{% macro missing_snapshots() -%}
    select snapshot_date from {{ ref('int_snapshots') }}
    {%- if is_incremental() %}
    where snapshot_date not in (select distinct existing.snapshot_date from {{ this }} as existing)
    {%- endif %}
{%- endmacro %}

{#- A snapshot is never computed again, so one that is taken before its data are in deserves a word. -#}
{% macro warn_if_not_landed(as_of) %}
    {%- if execute -%}
        {%- for row in run_query('select as_of, landed_until from ' ~ as_of ~ ' where as_of > landed_until').rows -%}
            {%- do exceptions.warn(
                'The snapshot of ' ~ row[0] ~ ' is taken of what is there: some raw table has nothing that landed after '
                ~ row[1] ~ '. Rows that come later will not change it.'
            ) -%}
        {%- endfor -%}
    {%- endif -%}
{% endmacro %}
