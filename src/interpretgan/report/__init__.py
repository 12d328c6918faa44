"""The report: one diagnosis as a sentence, a table for the terminal and a self-contained HTML page."""

from __future__ import annotations

from interpretgan.report.page import write_report
from interpretgan.report.pictures import draw_explanation, load_explanation, save_explanation
from interpretgan.report.wording import answer_sentence, summary_table

__all__ = [
    "answer_sentence", "draw_explanation", "load_explanation", "save_explanation", "summary_table", "write_report",
]  # fmt: skip
