"""Reports of a Table: self-contained HTML pages of scans, model graphs and claims."""

from spectrank.report._page import render_html as render_html
from spectrank.report._page import write_html as write_html
