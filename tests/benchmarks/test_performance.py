"""The table of measurements takes its own place in a page and leaves the prose around it."""

from measure import Row
from performance import BEGIN, END, put_between_marks, table, write_measured


def test_only_what_stands_between_the_marks_is_replaced():
    page = f"# Performance\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"
    assert put_between_marks(page, "new") == page.replace("old", "new")
    assert put_between_marks(put_between_marks("# Performance\n", "first"), "second") == (
        f"# Performance\n\n{BEGIN}\nsecond\n{END}\n"
    )


def test_a_page_that_is_not_there_yet_is_made_so_that_no_measurement_is_lost(tmp_path):
    page = tmp_path / "new" / "performance.md"
    for measured in ("first", "second"):
        write_measured(page, measured)
    assert page.read_text() == f"# Performance\n\n{BEGIN}\nsecond\n{END}\n"


def test_a_row_shows_the_median_and_the_spread_of_its_rounds():
    row = Row("work", "base", (1.5, 1.0, 9.0), 2)
    assert table([row]).splitlines()[-1] == "| work | base | 1.50 | 1.00 to 9.00 | 3 | 2 |"
