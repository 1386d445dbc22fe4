{#-
    The contract with the source systems, read from models/staging/_sources.yml:
    * read_raw_tables() checks the new files of RAW_DATA_DIR before any model runs and lays the raw relations on them;
    * raw_columns() and rejection_reason() turn a raw table into judged versions (macros/recorded_versions.sql).
-#}

{#- The change feeds: raw_<feed> → base_<feed> → stg_<feed>. A list, because refs must be known before a run executes. -#}
{% macro feeds() %}
    {{ return(['customers', 'tutors', 'sessions', 'calls', 'payments', 'app_events', 'tutor_availability']) }}
{% endmacro %}

{#- The source nodes, by table name. Only complete while a run executes. -#}
{% macro raw_tables() %}
    {%- set tables = {} -%}
    {%- for node in graph.sources.values() if node.source_name == 'raw' -%}
        {%- do tables.update({node.name: node}) -%}
    {%- endfor -%}
    {{ return(tables) }}
{% endmacro %}

{#- A table's columns as dictionaries (name, data_type, meta), in the order of the contract. -#}
{% macro raw_columns(table_name) %}
    {%- set columns = [] -%}
    {%- if execute -%}
        {%- for column in raw_tables()[table_name].columns.values() -%}
            {%- set meta = (column.get('config') or {}).get('meta') or column.get('meta') or {} -%}
            {%- do columns.append({'name': column.name, 'data_type': column.data_type, 'meta': meta}) -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(columns) }}
{% endmacro %}

{% macro raw_column_names(table_name) %}
    {{ return(raw_columns(table_name) | map(attribute='name') | list) }}
{% endmacro %}

{#- The list that a column's value must be in. -#}
{% macro raw_accepted_values(table_name, column_name) %}
    {{ return(
        raw_columns(table_name) | selectattr('name', 'equalto', column_name) | map(attribute='meta.accepted_values') | first
        or []
    ) }}
{% endmacro %}

{% macro raw_key(table_name) %}
    {{ return(raw_columns(table_name) | selectattr('meta.key', 'defined') | map(attribute='name') | list) }}
{% endmacro %}

{% macro read_raw_tables() %}
    {%- if execute and flags.WHICH in ['run', 'build', 'test'] -%}
        {{ return(adapter.dispatch('read_raw_tables')()) }}
    {%- endif -%}
{% endmacro %}

{#- On a warehouse that loads its raw tables itself, the sources are there already. -#}
{% macro default__read_raw_tables() %}
{% endmacro %}

{% macro duckdb__read_raw_tables() %}
    {%- set directory = env_var('RAW_DATA_DIR', '') or 'data/raw' -%}
    {%- do run_query('create schema if not exists raw') -%}
    {%- do duckdb__list_raw_files(directory) -%}
    {%- do run_query(
        'create table if not exists raw.files_read '
        ~ '(source_table varchar, file varchar, size bigint, modified_at timestamp with time zone, read_in integer)'
    ) -%}
    {%- do duckdb__number_this_run() -%}
    {%- do duckdb__stop_if_numbered_otherwise() -%}
    {%- set unread_files = duckdb__find_unread_files() -%}
    {%- set salt = duckdb__salt_of_forgotten_customers() -%}
    {%- for name in raw_tables() -%}
        {%- set files = unread_files | selectattr('source_table', 'equalto', name) | map(attribute='file') | list -%}
        {%- do run_query(
            'create or replace view raw.' ~ name ~ ' as '
            ~ duckdb__checked_raw_files(name, directory ~ '/' ~ name, files, salt)
        ) -%}
    {%- endfor -%}
{% endmacro %}

{#- The files of all raw tables, into the temporary table files_found (feature_repo/raw_files.py); an error when a table has none. -#}
{% macro duckdb__list_raw_files(directory) %}
    {%- do run_query(
        'create or replace temporary table files_found as select parse_path(file)[-2] as source_table, file, size, '
        ~ 'make_timestamptz(modified_at * 1000000) as modified_at from (select unnest(found.file) as file, '
        ~ 'unnest(found.size) as size, unnest(found.modified_at) as modified_at from '
        ~ "(select raw_files('" ~ directory ~ "') as found) as raw_files) as files"
    ) -%}
    {%- set folders = run_query('select distinct source_table from files_found').columns[0].values() -%}
    {%- if not folders | select('in', raw_tables()) | list -%}
        {{ exceptions.raise_compiler_error(
            "There are no raw data in " ~ directory ~ ": run 'make run' or 'python -m simulator --out " ~ directory
            ~ "' for a simulated marketplace, or set RAW_DATA_DIR to a directory with your own raw tables."
        ) }}
    {%- endif -%}
    {%- for name in raw_tables() if name not in folders -%}
        {{ exceptions.raise_compiler_error(
            'Raw table ' ~ name ~ ' is missing: expected ' ~ directory ~ '/' ~ name
            ~ '/*.parquet (or *.csv), found no such file.'
        ) }}
    {%- endfor -%}
{% endmacro %}

{#- Greater than the number of the run before, and than any that a base model holds should that have been dropped. -#}
{% macro duckdb__number_this_run() %}
    {%- do run_query('create table if not exists raw.this_run as select 0 as run_number') -%}
    {%- set numbers = ['select run_number from raw.this_run'] -%}
    {%- for feed in feeds() if duckdb__base_table(feed) -%}
        {%- do numbers.append('select max(recorded_in) from ' ~ duckdb__base_table(feed)) -%}
    {%- endfor -%}
    {%- set arrivals = duckdb__base_table('customer_arrivals') -%}
    {%- if arrivals -%}{%- do numbers.append('select max(changed_in) from ' ~ arrivals) -%}{%- endif -%}
    {%- do run_query(
        'create or replace table raw.this_run as select cast(max(run_number) + 1 as integer) as run_number from ('
        ~ numbers | join(' union all ') ~ ') as numbers'
    ) -%}
{% endmacro %}

{#- The table of a base model; none before its first run. -#}
{% macro duckdb__base_table(feed) %}
    {%- set relation = adapter.get_relation(target.database, 'staging', 'base_' ~ feed) -%}
    {{ return(relation if relation and relation.is_table else none) }}
{% endmacro %}

{#-
    The files of raw tables that their base models have not read, into raw.unread_files, and as rows of source_table and
    file; all of them when a model is built anew. A file is known by name, size and time of change. What is taken for new
    although it is not costs time and changes nothing, because rows that were delivered before are recognised as such.
-#}
{% macro duckdb__find_unread_files() %}
    {%- for name in raw_tables() -%}
        {%- set anew = not duckdb__base_table(name[4:])
            or (flags.FULL_REFRESH and 'model.' ~ project_name ~ '.base_' ~ name[4:] in selected_resources) -%}
        {%- if anew -%}
            {%- do run_query("delete from raw.files_read where source_table = '" ~ name ~ "'") -%}
        {%- endif -%}
    {%- endfor -%}
    {%- do run_query(
        'create or replace table raw.unread_files as select source_table, file, size, modified_at from files_found '
        ~ "where source_table in ('" ~ raw_tables() | join("', '") ~ "') and (source_table, file, size, modified_at) not in "
        ~ '(select source_table, file, size, modified_at from raw.files_read)'
    ) -%}
    {{ return(run_query('select source_table, file from raw.unread_files order by file').rows) }}
{% endmacro %}

{#- After a base model is written, in its transaction: its files are read. With --empty they were not. -#}
{% macro note_files_read(table_name) %}
    {%- if execute and not flags.EMPTY -%}
        {{ return(adapter.dispatch('note_files_read')(table_name)) }}
    {%- endif -%}
{% endmacro %}

{% macro default__note_files_read(table_name) %}
{% endmacro %}

{% macro duckdb__note_files_read(table_name) -%}
    insert into raw.files_read
    select *, {{ this_run() }} from raw.unread_files where source_table = '{{ table_name }}'
{%- endmacro %}

{#- The select that reads a raw table's unread files, each column in the contract's type; or one clear error. -#}
{% macro duckdb__checked_raw_files(table_name, folder, unread_files, salt) %}
    {%- set readers = [] -%}
    {%- for extension in ['parquet', 'csv'] -%}
        {%- set files = [] -%}
        {%- for file in unread_files if file.endswith('.' ~ extension) -%}
            {%- do files.append(file) -%}
        {%- endfor -%}
        {%- if files -%}
            {%- set list = files_listed(files) -%}
            {%- if extension == 'parquet' -%}
                {%- set reader = 'read_parquet(' ~ list ~ ', union_by_name = true)' -%}
            {%- else -%}
                {%- set reader = 'read_csv(' ~ list ~ ', header = true, all_varchar = true, union_by_name = true)' -%}
            {%- endif -%}
            {%- do readers.append(duckdb__checked_reader(table_name, reader, extension, folder ~ '/*.' ~ extension, salt)) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if not readers -%}
        {%- set columns = [] -%}
        {%- for column in raw_columns(table_name) -%}
            {%- do columns.append('cast(null as ' ~ column.data_type ~ ') as ' ~ column.name) -%}
        {%- endfor -%}
        {%- do readers.append('select ' ~ columns | join(', ') ~ ' where false') -%}
    {%- endif -%}
    {{ return(readers | join(' union all ')) }}
{% endmacro %}

{% macro duckdb__checked_reader(table_name, reader, extension, pattern, salt) %}
    {%- set found = {} -%}
    {%- for row in run_query('describe select * from ' ~ reader).rows -%}
        {%- do found.update({row[0] | lower: row[1]}) -%}
    {%- endfor -%}
    {%- set selected = [] -%}
    {%- for column in raw_columns(table_name) -%}
        {%- if column.name not in found -%}
            {%- if not column.meta.get('optional') -%}
                {{ exceptions.raise_compiler_error(
                    'Raw table ' ~ table_name ~ ' has no column ' ~ column.name ~ ': expected ' ~ column.data_type
                    ~ ', found only ' ~ (found | join(', ')) ~ ' (' ~ pattern ~ ').'
                ) }}
            {%- endif -%}
            {%- do selected.append('cast(null as ' ~ column.data_type ~ ') as ' ~ column.name) -%}
        {%- else -%}
            {%- if extension == 'csv' -%}
                {#- A CSV file has no types: what cannot be read as the contract's type is of the wrong type. -#}
                {%- set wrong = run_query(
                    'select ' ~ column.name ~ ' from ' ~ reader ~ ' where ' ~ column.name ~ ' is not null and try_cast('
                    ~ column.name ~ ' as ' ~ column.data_type ~ ') is null limit 1'
                ).rows -%}
                {%- set found_type = "the value '" ~ wrong[0][0] ~ "'" if wrong | length else none -%}
            {%- else -%}
                {%- set found_type = none if duckdb__type_fits(found[column.name], column.data_type) else found[column.name] -%}
            {%- endif -%}
            {%- if found_type -%}
                {{ exceptions.raise_compiler_error(
                    'Raw table ' ~ table_name ~ ', column ' ~ column.name ~ ' is of the wrong type: expected '
                    ~ column.data_type ~ ', found ' ~ found_type ~ ' (' ~ pattern ~ ').'
                ) }}
            {%- endif -%}
            {%- do selected.append('cast(' ~ column.name ~ ' as ' ~ column.data_type ~ ') as ' ~ column.name) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- set condition = duckdb__not_forgotten(salt) if salt and 'customer_id' in found else '' -%}
    {{ return('select ' ~ selected | join(', ') ~ ' from ' ~ reader ~ condition) }}
{% endmacro %}

{#-
    The condition that keeps the rows of forgotten customers out (scoring/forget.py): their ids are known by salted hashes.
    Nothing where nobody was forgotten, so that nobody pays for hashing.
-#}
{% macro duckdb__not_forgotten(salt) -%}
    {{ return(
        " where customer_id is null or sha256('" ~ salt
        ~ "' || customer_id) not in (select customer_hash from raw.forgotten_customers)"
    ) }}
{%- endmacro %}

{#- None where nobody was forgotten. -#}
{% macro duckdb__salt_of_forgotten_customers() -%}
    {#- Not adapter.get_relation: its look into the schema ends the transaction in which the raw views are made. -#}
    {%- if run_query(
        "select 1 from duckdb_tables() where schema_name = 'raw' and table_name = 'forgotten_customers'"
    ).rows -%}
        {{ return(run_query('select max(salt) from raw.forgotten_customers').columns[0].values()[0]) }}
    {%- endif -%}
    {{ return(none) }}
{%- endmacro %}

{#- Whether a file's type holds the contract's values without loss. -#}
{% macro duckdb__type_fits(found, expected) %}
    {%- set found = found | upper -%}
    {%- set integers = ['TINYINT', 'SMALLINT', 'INTEGER', 'UTINYINT', 'USMALLINT'] -%}
    {%- if expected == 'integer' -%}
        {{ return(found in integers + ['BIGINT', 'UINTEGER']) }}
    {%- elif expected == 'double' -%}
        {{ return(found in integers + ['DOUBLE', 'FLOAT']) }}
    {%- elif expected == 'varchar' -%}
        {{ return(found == 'VARCHAR' or found.startswith('ENUM')) }}
    {%- elif expected == 'timestamp' -%}
        {{ return(found in ['TIMESTAMP', 'TIMESTAMP_S', 'TIMESTAMP_MS', 'TIMESTAMP_NS']) }}
    {%- elif expected.startswith('decimal') -%}
        {#- More digits than the contract's are caught by the cast; more decimal places would be rounded away. -#}
        {{ return(found in integers or (found.startswith('DECIMAL') and found.split(',')[1].strip(')') | int <= 2)) }}
    {%- endif -%}
    {{ return(found == expected | upper) }}
{% endmacro %}

{#-
    SQL for the first reason for which a version breaks the contract, in the order of the specification; null when none.
    `of_customer`: base_customer_arrivals is left-joined, so rows are judged by their customer too (not for tutors and
    availability). `signed_up_at`: the signup that events must not lie before. `subjects`: the seed, for tables with a
    subject; given by the model, so that dbt sees the dependency.
-#}
{% macro rejection_reason(table_name, of_customer=true, signed_up_at=none, subjects=none) %}
    {%- set signed_up_at = signed_up_at or ('first_signed_up_at' if of_customer) -%}
    {%- set columns = raw_columns(table_name) -%}
    {%- set missing_key = [] -%}
    {%- set missing_timestamp = [] -%}
    {%- set unknown_value = [] -%}
    {%- set out_of_range = [] -%}
    {%- set after_load = [] -%}
    {%- set before_signup = [] -%}
    {%- for column in columns -%}
        {%- set name = column.name -%}
        {%- set meta = column.meta -%}
        {%- if meta.key or meta.owner -%}
            {%- do missing_key.append(name ~ ' is null') -%}
        {%- endif -%}
        {%- if meta.required is defined -%}
            {%- set condition = '' if meta.required is sameas true else meta.required ~ ' and ' -%}
            {%- do missing_timestamp.append('(' ~ condition ~ name ~ ' is null)') -%}
        {%- endif -%}
        {%- if meta.accepted_values is defined -%}
            {%- do unknown_value.append(name ~ " not in ('" ~ meta.accepted_values | join("', '") ~ "')") -%}
        {%- elif meta.accepted_seed is defined -%}
            {%- do unknown_value.append(name ~ ' not in (select subject from ' ~ subjects ~ ')') -%}
        {%- elif meta.accepted_list_seed is defined -%}
            {%- do unknown_value.append(has_item_outside(name, subjects, 'subject')) -%}
        {%- endif -%}
        {%- if unknown_value and (meta.accepted_values or meta.accepted_seed or meta.accepted_list_seed) and not meta.nullable -%}
            {%- do unknown_value.append(name ~ ' is null') -%}
        {%- endif -%}
        {%- if meta.between is defined -%}
            {%- if meta.between[0] is not none -%}{%- do out_of_range.append(name ~ ' < ' ~ meta.between[0]) -%}{%- endif -%}
            {%- if meta.between[1] is not none -%}{%- do out_of_range.append(name ~ ' > ' ~ meta.between[1]) -%}{%- endif -%}
            {%- if column.data_type == 'double' -%}{%- do out_of_range.append(is_not_a_number(name)) -%}{%- endif -%}
        {%- endif -%}
        {%- if meta.event is defined -%}
            {%- set condition = '' if meta.event is sameas true else meta.event ~ ' and ' -%}
            {%- do after_load.append(
                '(' ~ condition ~ name ~ ' > ' ~ dbt.dateadd('hour', 24, 'loaded_at') ~ ')') -%}
            {%- if signed_up_at -%}
                {%- do before_signup.append(
                    '(' ~ condition ~ name ~ ' < ' ~ dbt.dateadd('hour', -24, signed_up_at) ~ ')') -%}
            {%- endif -%}
        {%- endif -%}
    {%- endfor -%}
    case
        when {{ missing_key | join(' or ') }} then 'missing_key'
        {%- if of_customer %}
        when arrived_customer_id is null then 'unknown_customer'
        {%- endif %}
        {%- if missing_timestamp %}
        when {{ missing_timestamp | join(' or ') }} then 'missing_timestamp'
        {%- endif %}
        {%- if unknown_value %}
        when {{ unknown_value | join(' or ') }} then 'unknown_value'
        {%- endif %}
        {%- if out_of_range %}
        when {{ out_of_range | join(' or ') }} then 'out_of_range'
        {%- endif %}
        {%- if after_load %}
        when {{ after_load | join(' or ') }} then 'event_after_load'
        {%- endif %}
        {%- if before_signup %}
        when {{ before_signup | join(' or ') }} then 'event_before_signup'
        {%- endif %}
    end
{%- endmacro %}

{#- Whether a comma-separated list holds an item that the seed's column does not; in a row of the CTE `delivered`. -#}
{% macro has_item_outside(column, relation, item) %}
    {{- return(adapter.dispatch('has_item_outside')(column, relation, item)) -}}
{% endmacro %}

{#- Each list is taken apart once: there are few of them in many rows. -#}
{% macro duckdb__has_item_outside(column, relation, item) -%}
    {{ column }} in (
        select lists.{{ column }}
        from (select distinct {{ column }} from delivered) as lists
        where not list_has_all((select list({{ item }}) from {{ relation }}), string_split(replace(lists.{{ column }}, ' ', ''), ','))
    )
{%- endmacro %}

{% macro is_not_a_number(column) %}
    {{- return(adapter.dispatch('is_not_a_number')(column)) -}}
{% endmacro %}

{% macro default__is_not_a_number(column) -%}
    isnan({{ column }})
{%- endmacro %}

{#-
    Parquet statistics leave NaN out, and DuckDB 2.0 trusts them: over a file, `isnan(x)` and `x > 1` are folded to false
    for rows that hold NaN. The text of a value has no such statistics.
-#}
{% macro duckdb__is_not_a_number(column) -%}
    lower(cast({{ column }} as varchar)) = 'nan'
{%- endmacro %}

{#- The row as JSON text, columns in the contract's order. -#}
{% macro row_as_json(table_name) %}
    {{- return(adapter.dispatch('row_as_json')(table_name)) -}}
{% endmacro %}

{% macro duckdb__row_as_json(table_name) -%}
    cast(to_json(struct_pack(
        {%- for name in raw_column_names(table_name) %}{{ name }} := {{ name }}{{ ', ' if not loop.last }}{% endfor -%}
    )) as varchar)
{%- endmacro %}

{#-
    A row number that is 1 for exactly one row of each delivered version, whatever the order of the rows. The version is
    known by its key and `loaded_at`; without `loaded_at` by `updated_at`; without a key by the whole row.
-#}
{% macro delivery_number(table_name) -%}
    {%- set key = raw_key(table_name) -%}
    {%- set names = raw_column_names(table_name) -%}
    {%- set rest = names | reject('in', key + ['loaded_at', 'updated_at']) | list -%}
    row_number() over (
        partition by
            {{ key | join(', ') }}, loaded_at, rejection_reason is null,
            {%- if 'updated_at' in names %}
            case when loaded_at is null then updated_at end,
            {%- endif %}
            case when {{ key | join(' is null or ') }} is null then {{ row_as_json(table_name) }} end
        order by
            {%- if 'updated_at' in names %}
            updated_at desc nulls last,
            {%- endif %}
            {%- for name in rest %}
            {{ name }} desc nulls last{{ ',' if not loop.last }}
            {%- endfor %}
    )
{%- endmacro %}

{#- The rejected versions of a raw table in the form of quarantine.rejected_rows. -#}
{% macro rejected_versions(table_name, relation) -%}
    {%- set key = raw_key(table_name) -%}
    select
        cast('{{ table_name }}' as varchar) as source_table,
        {% if key | length == 1 -%}
        {{ key[0] }}
        {%- else -%}
        {% for name in key %}coalesce(cast({{ name }} as varchar), ''){{ " || '|' || " if not loop.last }}{% endfor %}
        {%- endif %} as primary_key,
        rejection_reason as reason,
        {{ row_as_json(table_name) }} as row_json,
        loaded_at
    from {{ relation }}
    where
        rejection_reason is not null
        and not is_repeat
        and replaced_in is null
{%- endmacro %}

{#- Names of files as a list in SQL. -#}
{% macro files_listed(files) -%}
    {{ return("['" ~ files | join("', '") ~ "']" if files else '[]') }}
{%- endmacro %}
