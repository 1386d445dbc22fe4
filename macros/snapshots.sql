{#-
    The snapshots that a model does not hold yet: all on a first run, the new ones, written out, in a nightly run. A snapshot
    that is written is never computed again, and one that a killed or missed run left out is made up for.
-#}
{% macro missing_snapshots() -%}
    {{ return(snapshots_not_in(this if is_incremental(), 'snapshot_date')) }}
{%- endmacro %}

{#- The same for customer_features, and for what is computed only on its way there. Looked up by name: a ref would close a circle. -#}
{% macro snapshots_without_features() -%}
    {%- set features = adapter.get_relation(this.database, 'features', 'customer_features') if execute -%}
    {{ return(snapshots_not_in(
        features if features and features.is_table and not should_full_refresh(), 'cast(feature_timestamp as date)'
    )) }}
{%- endmacro %}

{% macro snapshots_not_in(relation, snapshot_date) -%}
    {%- set snapshots = ref('int_snapshots') -%}
    {%- if relation and execute -%}
        {%- set missing = run_query(
            'select snapshot_date from ' ~ snapshots ~ ' where snapshot_date not in (select distinct ' ~ snapshot_date ~ ' from '
            ~ relation ~ ') order by snapshot_date'
        ).columns[0].values() -%}
        {{ return(snapshots_listed(missing) if missing else 'select snapshot_date from ' ~ snapshots ~ ' where false') }}
    {%- endif -%}
    {{ return('select snapshot_date from ' ~ snapshots) }}
{%- endmacro %}

{% macro snapshots_listed(dates) -%}
    {%- set selects = [] -%}
    {%- for date in dates -%}
        {%- do selects.append('select ' ~ as_date(date) ~ ' as snapshot_date') -%}
    {%- endfor -%}
    {{ return(selects | join(' union all ')) }}
{%- endmacro %}

{#-
    A table that is made of a SELECT, on DuckDB, for all models. One with `meta.snapshots_per_pass` gets its missing snapshots so
    many at a time, each time by an `insert` of its own in the model's transaction: the hash tables of some snapshots fit into
    memory where those of all do not, and DuckDB runs out of it when several in one statement have to go to disk. The SELECT
    stays what it is, and is one statement on other engines; a pass reads its snapshots, written out, where the model reads
    snapshots_without_features(). It is for a model whose rows hang on no other snapshot that it makes.
-#}
{% macro duckdb__create_table_as(temporary, relation, compiled_code, language='sql') -%}
    {%- set selects = selects_by_pass(compiled_code) -%}
    {{ dbt.duckdb__create_table_as(temporary, relation, selects[0], language, **kwargs) }}
    {%- for select in selects[1:] %}
    insert into {{ relation.include(database=(not temporary), schema=(not temporary)) }} by name (
        {{ select }}
    );
    {%- endfor -%}
{%- endmacro %}

{#- The SELECT of a model, once for each pass. Those that a night misses stand in it already. -#}
{% macro selects_by_pass(compiled_code) -%}
    {%- set snapshots_per_pass = (config.get('meta') or {}).get('snapshots_per_pass') -%}
    {%- if not snapshots_per_pass -%}
        {{ return([compiled_code]) }}
    {%- endif -%}
    {%- set listed = modules.re.escape(snapshots_listed(['DATE'])) | replace('DATE', '([0-9-]+)') -%}
    {%- set dates = modules.re.findall(listed, compiled_code) | unique | list -%}
    {%- set missing = snapshots_listed(dates) if dates else snapshots_without_features() -%}
    {%- if missing not in compiled_code -%}
        {{ exceptions.raise_compiler_error(
            this ~ ' has snapshots_per_pass, but does not read snapshots_without_features().'
        ) }}
    {%- endif -%}
    {%- if not dates -%}
        {%- set dates = run_query(missing ~ ' order by snapshot_date').columns[0].values() | list -%}
    {%- endif -%}
    {%- set selects = [] -%}
    {%- for some_dates in dates | batch(snapshots_per_pass) -%}
        {%- do selects.append(compiled_code | replace(missing, snapshots_listed(some_dates))) -%}
    {%- endfor -%}
    {{ return(selects or [compiled_code]) }}
{%- endmacro %}

{#- Every day of the longest window of the snapshots in a CTE; `days_back` is 1 for the last one. -#}
{% macro days_of_windows(snapshots) -%}
    select
        snapshots.snapshot_date,
        {{ days_from('snapshots.snapshot_date', '-numbers.generated_number') }} as event_date,
        numbers.generated_number as days_back
    from {{ snapshots }} as snapshots
    cross join ({{ numbers_up_to(window_days()[-1]) }}) as numbers
{%- endmacro %}

{#- The whole numbers from 1 on, as `generated_number`. -#}
{% macro numbers_up_to(greatest) -%}
    {{ return(adapter.dispatch('numbers_up_to')(greatest)) }}
{%- endmacro %}

{% macro default__numbers_up_to(greatest) -%}
    select cast(generated_number as integer) as generated_number
    from ({{ dbt.generate_series(greatest) }}) as numbers
{%- endmacro %}

{#- dbt's joins of powers of two take DuckDB longer to plan than the night's windows to add up. -#}
{% macro duckdb__numbers_up_to(greatest) -%}
    select cast(unnest(range(1, {{ greatest + 1 }})) as integer) as generated_number
{%- endmacro %}

{#- What a query finds, written out for an `in (…)`: only literals spare the scan of what cannot match. -#}
{% macro literal_timestamps(query) -%}
    {{ return(timestamps_listed(run_query(query).columns[0].values() if execute else [])) }}
{%- endmacro %}

{% macro as_date(day) -%}
    cast('{{ day }}' as date)
{%- endmacro %}

{% macro timestamps_listed(moments) -%}
    {%- set literals = [] -%}
    {%- for moment in moments -%}
        {%- do literals.append("cast('" ~ moment ~ "' as timestamp)") -%}
    {%- endfor -%}
    {{ return(literals | join(', ') or 'null') }}
{%- endmacro %}

{#-
    The last snapshot in an incremental model before the first that it misses, from which sums go on, and the last one that is
    older by the longest window (long ago, without any). None when sums have to start anew: on a first run, and after the tiles
    were rebuilt (`tiles_built_in`). Literals, because only a literal spares the scan of all that lies before.
-#}
{% macro earlier_snapshots(tiles, missing) -%}
    {%- if is_incremental() and execute -%}
        {%- set held -%}
            select
                snapshot_date,
                {{ days_from('snapshot_date', window_days()[-1]) }} as window_end
            from (
                select distinct
                    snapshot_date,
                    tiles_built_in
                from {{ this }}
            ) as snapshots
            where
                snapshot_date < (select min(snapshot_date) from ({{ missing }}) as missing)
                and tiles_built_in = (select min(recorded_in) from {{ tiles }})
            order by snapshot_date desc
        {%- endset -%}
        {%- set rows = run_query(held).rows -%}
        {%- if rows -%}
            {%- set older = [] -%}
            {%- for row in rows if row[1] <= rows[0][0] -%}
                {%- do older.append(row[0]) -%}
            {%- endfor -%}
            {{ return({
                'last': as_date(rows[0][0]),
                'month_before': as_date(older[0]) if older else long_ago(),
            }) }}
        {%- endif -%}
    {%- endif -%}
    {{ return({}) }}
{%- endmacro %}

{#-
    The last snapshot in an incremental model before the first that it misses, and the run that wrote it: whatever base
    models recorded or replaced in later runs is news to it. None when it has to start anew.
-#}
{% macro last_run_before_missing(relation, missing) -%}
    {%- if is_incremental() and execute -%}
        {%- do stop_if_rebuilt_since(relation) -%}
        {%- set last_before -%}
            select
                snapshot_date,
                max(recorded_in) as recorded_in
            from {{ relation }}
            where
                snapshot_date = (
                    select max(snapshot_date)
                    from {{ relation }}
                    where snapshot_date < (select min(snapshot_date) from ({{ missing }}) as missing)
                )
            group by snapshot_date
        {%- endset -%}
        {%- set rows = run_query(last_before).rows -%}
        {%- if rows -%}
            {{ return({'snapshot_date': rows[0][0], 'recorded_in': rows[0][1]}) }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#-
    The first day that the lifetime sums have yet to cover; none before there are any. Tiles need it, and the sums are made
    of tiles, so it is looked up by name: a ref would close a circle.
-#}
{% macro first_day_not_summed_up() -%}
    {%- if is_incremental() and execute -%}
        {%- set sums = adapter.get_relation(this.database, this.schema, 'int_customer_lifetime') -%}
        {%- if sums -%}
            {{ return(run_query('select cast(max(snapshot_date) as date) + 1 from ' ~ sums).columns[0].values()[0]) }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#-
    A snapshot is never computed again, so one that is taken before its data are in deserves a word; and so does a default
    date that one quiet table holds back for more than a week, as a table of seldom changes does.
-#}
{% macro warn_if_not_landed(as_of) %}
    {%- if execute -%}
        {%- for row in run_query(
            'select as_of, landed_until, quietest_table from ' ~ as_of ~ ' where as_of > landed_until'
        ).rows -%}
            {%- do exceptions.warn(
                'The snapshot of ' ~ row[0] ~ ' is taken of what is there: ' ~ row[2] ~ ' has nothing that landed after '
                ~ row[1] ~ '. Rows that come later will not change it.'
            ) -%}
        {%- endfor -%}
        {%- if not var('as_of') -%}
            {%- for row in run_query(
                'select as_of, latest_landed_on, quietest_table from ' ~ as_of ~ ' where '
                ~ dbt.datediff('as_of', 'latest_landed_on', 'day') ~ ' > 7'
            ).rows -%}
                {%- do exceptions.warn(
                    'The latest snapshot is of ' ~ row[0] ~ ', because nothing of ' ~ row[2] ~ ' landed after it; other raw '
                    ~ 'tables reach to ' ~ row[1] ~ ". When nothing is missing, name the date: --vars '{as_of: " ~ row[1] ~ "}'."
                ) -%}
            {%- endfor -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}
