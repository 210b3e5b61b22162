"""Reports of a Table: self-contained HTML pages, and static figures."""

from spectrank.report._page import render_html as render_html
from spectrank.report._page import write_html as write_html
from spectrank.report._static import figure as figure
