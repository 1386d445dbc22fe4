"""The school year (United States): breaks, exams and the weeks in which people sign up."""

from __future__ import annotations

from datetime import date, timedelta

from simulator.config import SUBJECTS

AP_SUBJECTS = frozenset(i for i, name in enumerate(SUBJECTS) if name.startswith("ap_"))
TEST_SUBJECTS = frozenset(i for i, name in enumerate(SUBJECTS) if name in ("sat_prep", "act_prep"))

_SIGNUPS_BY_MONTH = (1.45, 1.0, 0.95, 0.9, 0.7, 0.6, 0.75, 1.65, 1.75, 1.15, 0.95, 0.65)
_LESSONS_BY_MONTH = (1.0, 1.0, 1.0, 1.02, 1.02, 0.92, 0.88, 0.92, 1.0, 1.0, 1.0, 1.0)


def thanksgiving(year: int) -> date:
    """Fourth Thursday of November."""
    first = date(year, 11, 1)
    return first + timedelta(days=(3 - first.weekday()) % 7 + 21)


def signup_intensity(day: date) -> float:
    """Signups on ``day`` relative to an average day: peaks at back-to-school and in January."""
    return _SIGNUPS_BY_MONTH[day.month - 1]


def lessons_factor(monday: date) -> float:
    """Share of ordinary bookings that are made for the week of ``monday`` (0 to about 1): breaks are low."""
    thursday = monday + timedelta(days=3)
    year = thursday.year
    if monday <= thanksgiving(year) <= monday + timedelta(days=6):
        return 0.65
    if (thursday.month == 12 and thursday.day >= 22) or (thursday.month == 1 and thursday.day <= 3):
        return 0.40
    if thursday.month == 4 and 8 <= thursday.day <= 14:
        return 0.75
    return _LESSONS_BY_MONTH[thursday.month - 1]


def exam_season(monday: date) -> float:
    """Extra appetite for lessons before finals and Advanced Placement exams (0 to 1)."""
    day = monday + timedelta(days=3)
    if (day.month, day.day) >= (4, 15) and (day.month, day.day) <= (5, 14):
        return 1.0
    if day.month == 12 and day.day <= 18:
        return 0.7
    return 0.0


def summer_begins(monday: date) -> bool:
    """Whether families decide on their summer pause in the week of ``monday`` (four weeks from mid June)."""
    day = monday + timedelta(days=3)
    return date(day.year, 6, 11) <= day <= date(day.year, 7, 8)


def back_to_school(year: int) -> date:
    """Monday in the middle of August from which pausing customers come back."""
    day = date(year, 8, 13)
    return day + timedelta(days=(-day.weekday()) % 7)


def exams_just_over(monday: date) -> frozenset[int]:
    """Codes of the subjects whose exam lies in the few weeks before ``monday``: some had no other goal."""
    day = monday + timedelta(days=3)
    over: frozenset[int] = frozenset()
    if date(day.year, 5, 15) <= day <= date(day.year, 6, 7):
        over |= AP_SUBJECTS
    if day.month in (3, 5, 6, 10, 12) and 6 <= day.day <= 19:
        over |= TEST_SUBJECTS
    return over
