"""Templates of pages: what comes from outside is escaped, and a missing value is an error."""

import jinja2
import pytest

from tain.foundation.templates import as_markup, fill_template, read_part

EVIL = "<script>alert('x')</script> & \"more\""


def test_a_page_without_a_value_is_refused():
    with pytest.raises(jinja2.UndefinedError):
        fill_template("inspection/page.html", titles=["one"])


def test_style_sheets_are_contained_as_they_are_and_titles_are_escaped():
    page = fill_template(
        "inspection/page.html",
        titles=[EVIL],
        claim=EVIL,
        texts=1200,
        tokens=34_000,
        exactness="to the last bit",
        shown=0,
        left_out=0,
        methods={},
        has_pre_norm=False,
        geometry=None,
        tables=[],
        origins=[{EVIL: EVIL}],
        data=as_markup("{}"),
        script=as_markup("'use strict';"),
        digest="abc+/=",
    )
    assert read_part("inspection/page.css") in page
    assert "alert('x')" not in page and page.count("<script") == 2
    assert "over 1,200 texts and 34,000 tokens" in page
    assert "script-src 'sha256-abc+/='" in page
