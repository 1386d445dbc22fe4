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
