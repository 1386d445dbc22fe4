{#-
    Feast's offline store reads Parquet: one directory a feature family, one file a run, named by the run's as-of date.
    A file holds the snapshots that no other file holds, so a repeated run writes the same file again, a killed one is
    made up for by the next, and nothing is written twice. COPY writes beside the file and renames.
-#}
{% macro export_features(relation) %}
    {%- if execute -%}
        {{ adapter.dispatch('export_features')(relation) }}
    {%- endif -%}
{% endmacro %}

{#- A distributed engine serves Feast from its own tables. -#}
{% macro default__export_features(relation) %}
{% endmacro %}

{% macro duckdb__export_features(relation) %}
    {%- set directory = env_var('FEATURE_EXPORT_DIR', '') or 'data/features' -%}
    {%- set as_of = run_query('select max(feature_timestamp)::date from ' ~ relation).columns[0].values()[0] -%}
    {%- for family in feature_families() if as_of -%}
        {%- set folder = directory ~ '/customer_' ~ family ~ '_features' -%}
        {%- set file = folder ~ '/' ~ as_of ~ '.parquet' -%}
        {%- set others = [] -%}
        {%- for row in run_query("select file from glob('" ~ folder ~ "/*.parquet')").rows if row[0] != file -%}
            {%- do others.append(row[0]) -%}
        {%- endfor -%}
        {%- if flags.FULL_REFRESH -%}
            {#- Everything goes into one file; the others are emptied first, as SQL cannot delete a file. -#}
            {%- for other in others -%}
                {%- do run_query(
                    'copy (select * from ' ~ duckdb__family_rows(relation, family) ~ " limit 0) to '" ~ other
                    ~ "' (format parquet, use_tmp_file true)"
                ) -%}
            {%- endfor -%}
            {%- set others = [] -%}
        {%- endif -%}
        {%- set already = "select distinct feature_timestamp from read_parquet(['" ~ others | join("', '") ~ "'])" -%}
        {%- do run_query(
            'copy (select * from ' ~ duckdb__family_rows(relation, family)
            ~ (' where feature_timestamp not in (' ~ already ~ ')' if others else '')
            ~ " order by feature_timestamp, customer_id) to '" ~ file
            ~ "' (format parquet, compression zstd, use_tmp_file true)"
        ) -%}
    {%- endfor -%}
{% endmacro %}

{% macro duckdb__family_rows(relation, family) -%}
    (
        select customer_id, feature_timestamp, {{ feature_names(family) | join(', ') }}
        from {{ relation }}
    ) as family_rows
{%- endmacro %}
