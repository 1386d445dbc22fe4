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
    reader of the folder takes for an export (feature_repo/dbt_plugin.py). The files that it takes the place of are removed
    then. DuckDB writes a row group with one thread, and its own size leaves a snapshot to one.
-#}
{% macro duckdb__export(query, file, instead_of=[]) %}
    {%- set partial = file ~ '.partial' -%}
    {%- do run_query(
        'copy (' ~ query ~ ") to '" ~ partial ~ "' (format parquet, compression zstd, row_group_size 49152, use_tmp_file false)"
    ) -%}
    {%- do run_query(
        "select put_in_place('" ~ partial ~ "', cast(" ~ files_listed(instead_of) ~ ' as varchar[]))'
    ) -%}
{% endmacro %}

{% macro duckdb__exports(folder) -%}
    {{ return(run_query("select file from glob('" ~ folder ~ "/*.parquet')").columns[0].values() | list) }}
{%- endmacro %}

{#-
    Snapshots that files of a folder hold, at least those of the given ones that are there. A file named after a snapshot
    holds it, and the next one by name what has no file of its own, as a first build leaves it: so a night opens one file, and
    not one for each night before it, which took 0.22 s for 360. Only what was made up for later is looked for in all.
-#}
{% macro duckdb__exported_snapshots(snapshots, folder, files) -%}
    {%- set exported = [] -%}
    {%- set next_files = [] -%}
    {%- for snapshot in snapshots | sort -%}
        {%- set own_file = duckdb__export_file(folder, snapshot) -%}
        {%- if own_file in files -%}
            {%- do exported.append(snapshot) -%}
        {%- else -%}
            {%- do next_files.extend((files | select('gt', own_file) | sort)[:1]) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- do exported.extend(duckdb__snapshots_in(next_files | unique | list)) -%}
    {%- set missing = snapshots | reject('in', exported) | sort -%}
    {%- if missing -%}
        {%- set own_file = duckdb__export_file(folder, missing[0]) -%}
        {%- do exported.extend(duckdb__snapshots_in(files | select('gt', own_file) | reject('in', next_files) | list)) -%}
    {%- endif -%}
    {{ return(exported) }}
{%- endmacro %}

{% macro duckdb__export_file(folder, snapshot) -%}
    {{ return(folder ~ '/' ~ snapshot.date() ~ '.parquet') }}
{%- endmacro %}

{% macro duckdb__snapshots_in(files) -%}
    {{ return(run_query(
        'select distinct feature_timestamp from read_parquet(' ~ files_listed(files) ~ ')'
    ).columns[0].values() | list if files else []) }}
{%- endmacro %}

{#- A distributed engine serves Feast from its own tables. -#}
{% macro default__export_features(relation) %}
{% endmacro %}

{% macro duckdb__export_features(relation) %}
    {%- set folder = (env_var('FEATURE_EXPORT_DIR', '') or 'data/features') ~ '/customer_features' -%}
    {%- set snapshots = run_query('select distinct feature_timestamp from ' ~ relation).columns[0].values() -%}
    {%- if snapshots -%}
        {%- set file = duckdb__export_file(folder, snapshots | max) -%}
        {%- set found = duckdb__exports(folder) | reject('equalto', file) | list -%}
        {#- A full refresh puts everything into one file. -#}
        {%- set others = [] if flags.FULL_REFRESH else found -%}
        {%- set exported = duckdb__exported_snapshots(snapshots, folder, others) -%}
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
            file,
            instead_of=found if flags.FULL_REFRESH else []
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
    {%- set snapshots = run_query('select distinct feature_timestamp from ' ~ relation).columns[0].values() -%}
    {%- if not snapshots -%}
        {%- do duckdb__export(
            'select ' ~ columns ~ ' from ' ~ relation ~ ' limit 0', folder ~ '/no_predictions.parquet'
        ) -%}
    {%- else -%}
        {%- set newest = snapshots | max -%}
        {%- set file = duckdb__export_file(folder, newest) -%}
        {%- set found = duckdb__exports(folder) -%}
        {%- set before = file if file in found -%}
        {%- set held_by_others = duckdb__exported_snapshots(snapshots, folder, found | reject('equalto', file) | list) -%}
        {%- do duckdb__export(
            'with served as (' ~ duckdb__served_versions(relation, model_versions, newest, before, held_by_others)
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
{% macro duckdb__served_versions(relation, model_versions, newest, file_before, held_by_others) -%}
    select
        scored.feature_timestamp,
        scored.model_version
    from (
        select
            feature_timestamp,
            model_version,
            max(scored_at) as scored_at
        from {{ relation }}
        {%- if held_by_others %}
        where feature_timestamp not in ({{ timestamps_listed(held_by_others) }})
        {%- endif %}
        group by all
    ) as scored
    left join {{ model_versions }} as versions using (model_version)
    {%- if file_before %}
    left join (
        select distinct
            feature_timestamp,
            model_version,
            true as is_exported
        from read_parquet('{{ file_before }}')
        where feature_timestamp < cast('{{ newest }}' as timestamp)
    ) as before using (feature_timestamp, model_version)
    {%- endif %}
    qualify row_number() over (
        partition by scored.feature_timestamp
        order by
            {% if file_before %}before.is_exported nulls last, {% endif -%}
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
