"""Reports of a Table: a self-contained HTML page."""

from spectrank.report._page import render_html as render_html
from spectrank.report._page import write_html as write_html
