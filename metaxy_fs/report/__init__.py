"""The report: one HTML file that shows what stores hold, with nothing to install and nothing to fetch."""

from metaxy_fs.report.facts import MOST_COMMITS, StoreFacts, store_facts
from metaxy_fs.report.page import write_page, write_report

__all__ = ["MOST_COMMITS", "StoreFacts", "store_facts", "write_page", "write_report"]
