{#-
    Incremental staging (docs/decisions.md, "Increments"). A base model records every delivered row with its judgement and
    its clocks, for one run after another: `recorded_in` is the run that made the record, `replaced_in` the later run in
    which a record of the same key took its place (null for the current one). Nothing is forgotten, so whoever reads a base
    model later knows from `recorded_in` and `replaced_in` alone what is new to it and what it has to take back.

    A run judges again only the keys that new files bring, and those whose customer became known or was dated anew; and of
    these only the records for which something can change (`is_settled`). It writes them once more, as replaced ones, beside
    those that take their place, and deletes them where they were: so what a night replaces lies together, and whoever asks
    for it reads nothing else.
-#}

{#- A CTE `known_records`: the current records that this run has to judge again. None on a first run. -#}
{% macro known_records(table_name, of_customer=true) -%}
    {%- if is_incremental() -%}
known_records as (
    {{ adapter.dispatch('select_known_records')(table_name, of_customer) }}
),
    {%- endif -%}
{%- endmacro %}

{% macro default__select_known_records(table_name, of_customer) -%}
    select * from {{ this }}
    where
        replaced_in is null
        and key_number in (
            select touched.key_number from ({{ touched_keys(table_name, of_customer) }}) as touched
        )
{%- endmacro %}

{% macro duckdb__select_known_records(table_name, of_customer) -%}
    select * from {{ duckdb__known_records_table(this) }}
{%- endmacro %}

{#-
    Before a base model is written, in its transaction. DuckDB looks the known records up once, into a temporary table, for the
    model and for their deletion: the second search would cost as much as the first, and it plans with their number then.
    `judged_whole`: a condition on records. All records of a key that has such a one are judged again, for a reader who takes
    what is new of a key for all that there is of it.
-#}
{% macro find_known_records(table_name, of_customer=true, judged_whole=none) -%}
    {%- if is_incremental() -%}
        {{ return(adapter.dispatch('find_known_records')(table_name, of_customer, judged_whole)) }}
    {%- endif -%}
{%- endmacro %}

{% macro default__find_known_records(table_name, of_customer, judged_whole) -%}
{%- endmacro %}

{#-
    DuckDB sorts rows out by a Bloom filter while it reads them, and one in 150 is let through by mistake: some of every
    2,048, so that all columns of the whole history were read. Row ids, of the two columns that decide, read no others
    but where there is something.
-#}
{% macro duckdb__find_known_records(table_name, of_customer, judged_whole) -%}
    create or replace temporary table {{ duckdb__known_records_table(this) }} as
    with touched as materialized (
        select
            key_number,
            min(touched_from) as touched_from
        from ({{ touched_keys(table_name, of_customer) }}) as keys
        group by key_number
    ),

    records as materialized (
        select
            rowid as row_id,
            *
        from {{ this }}
        where
            rowid in (
                select rowid from {{ this }}
                where
                    replaced_in is null
                    and key_number in (select touched.key_number from touched)
            )
    )

    select records.*
    from records
    inner join touched
        on records.key_number = touched.key_number
    where
        not {{ is_settled('records', 'touched.touched_from') }}
        {%- if judged_whole %}
        or records.key_number in (select whole.key_number from records as whole where whole.{{ judged_whole }})
        {%- endif %}
{%- endmacro %}

{#-
    Whether all stays as it is with a record when rows of its key are delivered from a moment on: it was delivered before, so
    none of them is the same delivery, and another version took its place by the first snapshot that can see them. Then the
    same is true of all earlier versions, so those that are judged again without it have the same clocks as with it.
    Otherwise each night would record anew all that was ever said of a tutor whose row comes every day.
-#}
{% macro is_settled(records, touched_from) -%}
    (
        {{ delivered_at(records ~ '.loaded_at') }} < {{ touched_from }}
        and (
            {{ records }}.in_force_from is null
            or coalesce({{ records }}.in_force_until <= {{ first_midnight_delivered(touched_from) }}, false)
        )
    )
{%- endmacro %}

{% macro duckdb__known_records_table(relation) -%}
    {{ relation.identifier }}__known_records
{%- endmacro %}

{#- The rows of all keys that this run has to judge, given CTEs `source` (what new files hold) and `known_records`. -#}
{% macro rows_to_judge(table_name) -%}
    {%- set columns = raw_column_names(table_name) | join(', ') -%}
    select
        {{ columns }},
        {{ key_number(table_name) }} as key_number
    from source
    {%- if is_incremental() %}
    union
    select
        {{ columns }},
        key_number
    from known_records
    {%- endif %}
{%- endmacro %}

{#-
    The numbers of the keys that a run judges again, and from which delivery on: the keys in new files, and all of those whose
    customer became known or changed.
-#}
{% macro touched_keys(table_name, of_customer) -%}
    {%- set last_run = last_recorded_run(this) -%}
    select
        {{ key_number(table_name) }} as key_number,
        {{ delivered_at('loaded_at') }} as touched_from
    from {{ source('raw', table_name) }}
    {%- if of_customer %}
    union all
    {# Rows of a customer who is new are among those that wait for one, which spares the look at all others. -#}
    select
        key_number,
        {{ delivered_at('null') }} as touched_from
    from {{ this }}
    where
        awaited_customer_key is not null
        and replaced_in is null
        and awaited_customer_key in (
            select customer_key from {{ ref('base_customer_arrivals') }}
            where arrived_in > {{ last_run }}
        )
    union all
    select
        key_number,
        {{ delivered_at('null') }} as touched_from
    from {{ this }}
    where
        replaced_in is null
        and customer_id in (
            select customer_id from {{ ref('base_customer_arrivals') }}
            where changed_in > {{ last_run }} and arrived_in <= {{ last_run }}
        )
    {%- endif %}
{%- endmacro %}

{#-
    A number for a row's key, in a column of its own because nights search the history by it: a third of the time that the
    texts take. Keys may share a number; they are then judged again together, each for itself, which changes nothing.
    A row without a key can only be delivered again as the same row, so it is known by its `loaded_at` too; otherwise all
    such rows of the history would be judged again with each new one.
-#}
{% macro key_number(table_name) -%}
    {%- set key = raw_key(table_name) -%}
    {{ return(adapter.dispatch('number_of')(
        key + ['case when ' ~ key | join(' is null or ') ~ ' is null then loaded_at end']
    )) }}
{%- endmacro %}

{% macro default__number_of(values) -%}
    {%- set texts = [] -%}
    {%- for value in values -%}
        {%- do texts.append('coalesce(cast(' ~ value ~ " as " ~ dbt.type_string() ~ "), '')") -%}
    {%- endfor -%}
    {{ dbt.hash(texts | join(" || '|' || ")) }}
{%- endmacro %}

{#-
    40 of DuckDB's 64 bits, for which a column takes five bytes a row. Of 32 a few keys in a thousand share one with a key of
    long ago: too few to matter, but each costs a look at a piece of the history that would not be opened otherwise.
-#}
{% macro duckdb__number_of(values) -%}
    cast(hash({{ values | join(', ') }}) >> 24 as bigint)
{%- endmacro %}

{#- DuckDB does not promise that another version of it hashes alike. Then no record would be found any more. -#}
{% macro duckdb__stop_if_numbered_otherwise() %}
    {%- set checks = [] -%}
    {%- for feed in feeds() if not flags.FULL_REFRESH -%}
        {%- set relation = duckdb__base_table(feed) -%}
        {%- if relation -%}
            {%- do checks.append(
                "select '" ~ relation ~ "' from (select * from " ~ relation ~ ' limit 1) as any_record where key_number <> '
                ~ key_number('raw_' ~ feed)
            ) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- set numbered_otherwise = run_query(checks | join(' union all ')).columns[0].values() if checks else [] -%}
    {%- if numbered_otherwise -%}
        {{ exceptions.raise_compiler_error(
            numbered_otherwise | join(', ') ~ " was built by a version of DuckDB that hashes otherwise. Run 'dbt build --full-refresh'."
        ) }}
    {%- endif -%}
{% endmacro %}

{#-
    The rest of a base model, after its CTEs `delivered` and `judged`: the CTEs that tell deliveries apart, set the clocks
    and make the records, in `final`. `is_repeat`: another row of the same key and `loaded_at`, accepted or rejected like
    this one, is kept instead of it. Only the few rows that came more than once are compared; and where a table has no
    `updated_at`, its rows are delivered once as a rule, so that only the few others have versions to be put in order.
    That order is found in narrow rows: the wide ones stay in the order of their files, so that what a night looks up and
    replaces, most of it some days old, lies together.
-#}
{% macro recorded_versions(table_name, of_customer=true) -%}
{%- set has_versions = 'updated_at' in raw_column_names(table_name) -%}
{%- set delivery = ['key_number'] + (['loaded_at'] if has_versions else []) -%}
{%- set version = raw_key(table_name) + (['loaded_at', 'updated_at'] if has_versions else ['loaded_at']) -%}
repeated_deliveries as (
    select {{ delivery | join(', ') }}
    from delivered
    group by {{ delivery | join(', ') }}
    having count(*) > 1
),

repeated as (
    select distinct judged.*
    from judged
    where exists (
        select 1 from repeated_deliveries
        where {{ same_values(delivery, 'judged', 'repeated_deliveries') }}
    )
),

deliveries as {{ computed_for_each_reader() }} (
    select
        judged.*,
        false as came_again,
        false as is_repeat
    from judged
    where not exists (
        select 1 from repeated_deliveries
        where {{ same_values(delivery, 'judged', 'repeated_deliveries') }}
    )
    union all
    select
        *,
        true as came_again,
        {{ delivery_number(table_name) }} > 1 as is_repeat
    from repeated
),

clocked as {{ computed_for_each_reader() }} (
    select
        *,
        case
            when {{ is_version() }}
            {%- if of_customer %}
                then greatest({{ first_midnight_delivered('loaded_at') }}, arrived_from)
            {%- else %}
                then {{ first_midnight_delivered('loaded_at') }}
            {%- endif %}
        end as in_force_from
    from deliveries
),

version_ends as (
    select
        {{ version | join(', ') }},
        {{ in_force_until(table_name) }} as in_force_until
    from clocked
    where
        in_force_from is not null
        {%- if not has_versions %}
        and came_again
        {%- endif %}
),

final as (
    select
        {%- for name in raw_column_names(table_name) %}
        clocked.{{ name }},
        {%- endfor %}
        clocked.key_number,
        clocked.rejection_reason,
        {%- if of_customer %}
        case when clocked.rejection_reason = 'unknown_customer' then {{ customer_key('clocked.customer_id') }} end
            as awaited_customer_key,
        {%- endif %}
        clocked.is_repeat,
        clocked.in_force_from,
        version_ends.in_force_until,
        {{ this_run() }} as recorded_in,
        cast(null as integer) as replaced_in,
        {{ this_run() }} as written_in
    from clocked
    left join version_ends
        on
            clocked.in_force_from is not null
            and {{ same_values(version, 'clocked', 'version_ends') }}
            and version_ends.in_force_until is not null
    {%- if is_incremental() %}
    union all
    select
        {{ raw_column_names(table_name) | join(', ') }},
        key_number,
        rejection_reason,
        {%- if of_customer %}
        awaited_customer_key,
        {%- endif %}
        is_repeat,
        in_force_from,
        in_force_until,
        recorded_in,
        {{ this_run() }} as replaced_in,
        {{ this_run() }} as written_in
    from known_records
    {%- endif %}
)
{%- endmacro %}

{#-
    Of a CTE that is read more than once. DuckDB would keep its rows, and those of a first run are all of a feed, as wide as
    they came. Where they go to disk, each reader brings them back and they are written once more after it; to read the
    files and to judge again for each reader takes less time then, and where there is memory for all, a fifth more. A night
    has few rows, and would plan several times.
-#}
{% macro computed_for_each_reader() -%}
    {%- if not is_incremental() -%}
        {{ return(adapter.dispatch('computed_for_each_reader')()) }}
    {%- endif -%}
{%- endmacro %}

{% macro default__computed_for_each_reader() -%}
{%- endmacro %}

{% macro duckdb__computed_for_each_reader() -%}
    not materialized
{%- endmacro %}

{#- Whether two relations agree in columns; a null is a value like any other. -#}
{% macro same_values(columns, one, other) -%}
    {%- for name in columns -%}
    {{ one }}.{{ name }} is not distinct from {{ other }}.{{ name }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}

{#- The records that keep the contract, each delivery once. -#}
{% macro is_version() -%}
    rejection_reason is null
    and not is_repeat
{%- endmacro %}

{#- Those of them that hold today: the versions that staging shows. -#}
{% macro is_current_version() -%}
    {{ is_version() }}
    and replaced_in is null
{%- endmacro %}

{#- The number of this run: greater than that of any run that left a record. -#}
{% macro this_run() -%}
    {{ return(adapter.dispatch('this_run')()) }}
{%- endmacro %}

{#- Until an engine that lands its raw tables itself numbers its runs, it can only build from scratch. -#}
{% macro default__this_run() -%}
    1
{%- endmacro %}

{% macro duckdb__this_run() -%}
    (select run_number from raw.this_run)
{%- endmacro %}

{#- Incremental strategy of the base models: what this run judged takes the place of the current records of its keys. -#}
{% macro get_incremental_supersede_sql(arguments) %}
    {%- set columns = arguments.dest_columns | map(attribute='quoted') | join(', ') -%}
    insert into {{ arguments.target_relation }} ({{ columns }})
    select {{ columns }} from {{ arguments.temp_relation }};

    {{ delete_superseded_records(arguments.target_relation) }}
{% endmacro %}

{#- Which have been written once more, as replaced ones, beside the new ones (find_known_records). -#}
{% macro delete_superseded_records(relation) -%}
    delete from {{ relation }}
    where rowid in (select row_id from {{ duckdb__known_records_table(relation) }});

    drop table {{ duckdb__known_records_table(relation) }};
{%- endmacro %}

{#- The run up to which an incremental model holds what base models recorded; none on a first run. -#}
{% macro last_run_held(relation) -%}
    {%- if is_incremental() and execute -%}
        {%- do stop_if_rebuilt_since(relation) -%}
        {{ return(last_recorded_run(relation)) }}
    {%- endif -%}
    {{ return(none) }}
{%- endmacro %}

{#- What a model that adds up facts does not hold yet (last_run_held); everything current on a first run. -#}
{% macro news(facts, last_run) -%}
    {%- if last_run is not none %}
    {{ news_since(last_run, facts) }}
    {%- else %}
    select
        *,
        1 as sign
    from {{ facts }}
    where replaced_in is null
    {%- endif %}
{%- endmacro %}

{#- The last run that wrote into a relation; 0 without any. -#}
{% macro last_recorded_run(relation, run='recorded_in') %}
    {{ return(run_query('select max(' ~ run ~ ') from ' ~ relation).columns[0].values()[0] or 0 if execute else 0) }}
{% endmacro %}

{#-
    Records made since a run (`sign` 1), and those made by then that were replaced since (-1). All of them were written since
    (`written_in`), which spares the look at all others.
-#}
{% macro news_since(run, facts) -%}
    select
        *,
        case when replaced_in is null then 1 else -1 end as sign
    from {{ facts }}
    where
        written_in > {{ run }}
        and (replaced_in is null or recorded_in <= {{ run }})
{%- endmacro %}

{#- Records of base models that were built anew would be added a second time to what was added up from the old ones. -#}
{% macro stop_if_rebuilt_since(relation) %}
    {%- if execute -%}
        {% do adapter.dispatch('stop_if_rebuilt_since')(relation) %}
    {%- endif -%}
{% endmacro %}

{% macro default__stop_if_rebuilt_since(relation) %}
{% endmacro %}

{% macro duckdb__stop_if_rebuilt_since(relation) %}
    {%- set rebuilt = run_query(
        'select source_table from raw.files_read group by source_table having min(read_in) > (select min(recorded_in) from '
        ~ relation ~ ') order by source_table'
    ).columns[0].values() -%}
    {%- if rebuilt -%}
        {{ exceptions.raise_compiler_error(
            'The base models of ' ~ rebuilt | join(', ') ~ ' were built anew after ' ~ relation
            ~ ". Run 'dbt build --full-refresh'."
        ) }}
    {%- endif -%}
{% endmacro %}
