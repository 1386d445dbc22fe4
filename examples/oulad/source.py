"""The files of the data set, Parquet or the CSV files that anyone can download, under one set of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from feature_repo.paths import repository_root

DOWNLOAD = "https://analyse.kmi.open.ac.uk/open_dataset"
KEY = {"code_module": "varchar", "code_presentation": "varchar"}


class OuladError(Exception):
    """The example cannot go on; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class SourceTable:
    """A table of the data set: its CSV file, the pattern of its Parquet file, the columns that are read."""

    csv: str
    parquet: str
    columns: Mapping[str, str]


# What the mapping reads, and nothing else: a student's leaving (date_unregistration, final_result) is not
# among it, so no raw table can depend on it. examples.oulad.withdrawal alone reads WITHDRAWALS.
TABLES: Mapping[str, SourceTable] = {
    "courses": SourceTable("courses.csv", "course.parquet", KEY | {"module_presentation_length": "integer"}),
    "student_info": SourceTable(
        "studentInfo.csv",
        "student.parquet",
        KEY | {"id_student": "integer", "region": "varchar", "studied_credits": "integer"},
    ),
    "student_registration": SourceTable(
        "studentRegistration.csv",
        "student_registration.parquet",
        KEY | {"id_student": "integer", "date_registration": "integer"},
    ),
    "assessments": SourceTable(
        "assessments.csv",
        "assessment.parquet",
        KEY | {"id_assessment": "integer", "assessment_type": "varchar", "date": "integer"},
    ),
    "student_assessment": SourceTable(
        "studentAssessment.csv",
        "student_assessment.parquet",
        {
            "id_assessment": "integer",
            "id_student": "integer",
            "date_submitted": "integer",
            "is_banked": "boolean",
            "score": "integer",
        },
    ),
    "vle": SourceTable("vle.csv", "vle.parquet", KEY | {"id_site": "integer", "activity_type": "varchar"}),
    "student_vle": SourceTable(
        "studentVle.csv",
        "student_vle*.parquet",
        KEY | {"id_student": "integer", "id_site": "integer", "date": "integer"},
    ),
}
WITHDRAWALS = SourceTable(
    "studentRegistration.csv",
    "student_registration.parquet",
    KEY | {"id_student": "integer", "date_unregistration": "integer"},
)


def data_directory(given: Path | None) -> Path:
    """The directory of the data set: the one that was given, else ../shared/data/oulad where it is there.

    Raises OuladError, which says where the data can be had, when there is no such directory.
    """
    directory = given or repository_root().parent / "shared" / "data" / "oulad"
    if directory.is_dir():
        return directory.resolve()
    raise OuladError(
        f"There is no directory {directory} with the OULAD data set: anyone can download it from {DOWNLOAD}; "
        f"unpack the archive and run `make oulad OULAD_DIR=<its directory>`, which reads its CSV files "
        f"({', '.join(table.csv for table in TABLES.values())}) as they are."
    )


def create_view(
    connection: duckdb.DuckDBPyConnection, name: str, table: SourceTable, directory: Path
) -> None:
    """Create the view `name` with the columns of `table` in their types.

    Raises OuladError when there is no such file, or not one, or it lacks a column.
    """
    files = sorted(directory.glob(table.parquet)) or sorted(directory.glob(table.csv))
    if len(files) != 1:
        found = "none of them" if not files else ", ".join(file.name for file in files)
        raise OuladError(f"{directory} must hold one of {table.csv} and {table.parquet}; it has {found}.")
    file = str(files[0]).replace("'", "''")
    # The archive marks an unknown value by nothing or by a question mark.
    reader = (
        f"read_parquet('{file}')"
        if file.endswith(".parquet")
        else f"read_csv('{file}', header = true, all_varchar = true, nullstr = ['', '?'])"
    )
    columns = ", ".join(f"cast({column} as {kind}) as {column}" for column, kind in table.columns.items())
    try:
        connection.execute(f"create or replace view {name} as select {columns} from {reader}")
    except duckdb.BinderException as error:
        found = [row[0] for row in connection.execute(f"describe select * from {reader}").fetchall()]
        missing = [column for column in table.columns if column not in found]
        raise OuladError(
            f"{files[0]} has no column {', '.join(missing)}: found only {', '.join(found)}."
        ) from error
    except duckdb.Error as error:
        raise OuladError(f"{files[0]} cannot be read: {in_one_line(error)}.") from error


def in_one_line(error: duckdb.Error) -> str:
    """What DuckDB complains of, without its suggestions: for a CSV file the line, the value and the file."""
    first, *others = (line.strip() for line in str(error).splitlines())
    telling = ("Error when converting", "file = ")
    return ". ".join([first, *(line for line in others if line.startswith(telling))])
