{#-
    Feast's offline store reads Parquet: one directory, which the feature views of all families read, one file a run, named by
    the run's as-of date. A file holds the snapshots that no other file holds, so a repeated run writes the same file again,
    a killed one is made up for by the next, and nothing is written twice.
-#}
{% macro export_features(relation) %}
    {%- if execute -%}
        {{ adapter.dispatch('export_features')(relation) }}
    {%- endif -%}
{% endmacro %}

{#-
    Write the rows of a query as the Parquet file of that name, whole or not at all: beside it first, under a name that no
    reader of the folder takes for an export (feature_repo/dbt_plugin.py). DuckDB writes a row group with one thread, and its
    own size leaves a snapshot to one.
-#}
{% macro duckdb__export(query, file) %}
    {%- set partial = file ~ '.partial' -%}
    {%- do run_query(
        'copy (' ~ query ~ ") to '" ~ partial ~ "' (format parquet, compression zstd, row_group_size 49152, use_tmp_file false)"
    ) -%}
    {%- do run_query("select put_in_place('" ~ partial ~ "')") -%}
{% endmacro %}

{#- A distributed engine serves Feast from its own tables. -#}
{% macro default__export_features(relation) %}
{% endmacro %}

{% macro duckdb__export_features(relation) %}
    {%- set folder = (env_var('FEATURE_EXPORT_DIR', '') or 'data/features') ~ '/customer_features' -%}
    {%- set snapshots = run_query('select distinct feature_timestamp from ' ~ relation).columns[0].values() -%}
    {%- if snapshots -%}
        {%- set file = folder ~ '/' ~ (snapshots | max).date() ~ '.parquet' -%}
        {%- set others = [] -%}
        {%- for row in run_query("select file from glob('" ~ folder ~ "/*.parquet')").rows if row[0] != file -%}
            {%- do others.append(row[0]) -%}
        {%- endfor -%}
        {%- if flags.FULL_REFRESH -%}
            {#- Everything goes into one file; the others are emptied first, as SQL cannot delete a file. -#}
            {%- for other in others -%}
                {%- do duckdb__export('select * from ' ~ relation ~ ' limit 0', other) -%}
            {%- endfor -%}
            {%- set others = [] -%}
        {%- endif -%}
        {%- if others -%}
            {%- set exported = run_query(
                "select distinct feature_timestamp from read_parquet(['" ~ others | join("', '") ~ "'])"
            ).columns[0].values() -%}
        {%- endif -%}
        {#-
            A night's file has the same bytes when it is written again; a whole history is not sorted so far, for its size. In the
            order of a number the file is a tenth larger, and sorted in no time.
        -#}
        {%- do duckdb__export(
            'select * from ' ~ relation
            ~ (
                ' where feature_timestamp in (' ~ timestamps_listed(snapshots | reject('in', exported)) ~ ')'
                if others else ''
            )
            ~ ' order by feature_timestamp' ~ (', ' ~ customer_key('customer_id') if others else ''),
            file
        ) -%}
    {%- endif -%}
{% endmacro %}

{#-
    The predictions in the same form, with two differences. A snapshot may have been scored by several versions: served is
    the champion's row for the newest snapshot (marts.customer_health_current), so a champion that took over since is
    exported in the place of the version before; for a snapshot gone by it stays the version that was served then. And
    before the first prediction there is a file without rows, because Feast cannot read a source without files.
    A full refresh leaves predictions alone (customer_predictions.sql), and so their files.
-#}
{% macro export_predictions(relation, model_versions) %}
    {%- if execute -%}
        {{ adapter.dispatch('export_predictions')(relation, model_versions) }}
    {%- endif -%}
{% endmacro %}

{% macro default__export_predictions(relation, model_versions) %}
{% endmacro %}

{% macro duckdb__export_predictions(relation, model_versions) %}
    {%- set folder = (env_var('FEATURE_EXPORT_DIR', '') or 'data/features') ~ '/' ~ relation.identifier -%}
    {%- set columns = served_columns(relation.identifier) | join(', ') -%}
    {%- set newest = run_query('select max(feature_timestamp) from ' ~ relation).columns[0].values()[0] -%}
    {%- if not newest -%}
        {%- do duckdb__export(
            'select ' ~ columns ~ ' from ' ~ relation ~ ' limit 0', folder ~ '/no_predictions.parquet'
        ) -%}
    {%- else -%}
        {%- set file = folder ~ '/' ~ newest.date() ~ '.parquet' -%}
        {%- set exported = [] -%}
        {%- set others = [] -%}
        {%- for row in run_query("select file from glob('" ~ folder ~ "/*.parquet')").rows -%}
            {%- do (exported if row[0] == file else others).append(row[0]) -%}
        {%- endfor -%}
        {%- do duckdb__export(
            'with served as (' ~ duckdb__served_versions(relation, model_versions, newest, exported, others)
            ~ ') select ' ~ columns ~ ' from ' ~ relation
            ~ ' inner join served using (feature_timestamp, model_version)'
            ~ ' order by feature_timestamp, customer_id',
            file
        ) -%}
    {%- endif -%}
{% endmacro %}

{#-
    Which version is served for each snapshot that no other file holds (feature_timestamp, model_version): the one that was
    exported before, except at the newest snapshot; then the champion; then whichever scored last.
-#}
{% macro duckdb__served_versions(relation, model_versions, newest, exported, others) -%}
    select
        scored.feature_timestamp,
        scored.model_version
    from (
        select
            feature_timestamp,
            model_version,
            max(scored_at) as scored_at
        from {{ relation }}
        {%- if others %}
        where feature_timestamp not in (select distinct feature_timestamp from read_parquet(['{{ others | join("', '") }}']))
        {%- endif %}
        group by all
    ) as scored
    left join {{ model_versions }} as versions using (model_version)
    {%- if exported %}
    left join (
        select distinct
            feature_timestamp,
            model_version,
            true as is_exported
        from read_parquet('{{ exported[0] }}')
        where feature_timestamp < cast('{{ newest }}' as timestamp)
    ) as before using (feature_timestamp, model_version)
    {%- endif %}
    qualify row_number() over (
        partition by scored.feature_timestamp
        order by
            {% if exported %}before.is_exported nulls last, {% endif -%}
            coalesce(versions.is_champion, false) desc, scored.scored_at desc, scored.model_version desc
    ) = 1
{%- endmacro %}

{#- The columns of a model that are served online, in its order: all but those that its YAML marks as not served. -#}
{% macro served_columns(model) %}
    {%- set names = [] -%}
    {%- for column in graph.nodes['model.' ~ project_name ~ '.' ~ model].columns.values() -%}
        {%- if column.meta.get('served', true) -%}
            {%- do names.append(column.name) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(names) }}
{% endmacro %}
