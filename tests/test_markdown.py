"""Tables of Markdown."""

from salad import markdown


def test_what_a_cell_holds_parts_no_cell_and_no_line():
    table = markdown.table(("a", "b"), [("x|y", 1), ("two\nlines", None)])
    assert table == ["| a | b |", "| --- | --- |", "| x\\|y | 1 |", "| two lines | None |"]
