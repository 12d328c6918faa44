"""The report: one diagnosis as a sentence, a table for the terminal and a self-contained HTML page."""

from interpretgan.report.comparison import Comparison as Comparison, compare_runs as compare_runs
from interpretgan.report.comparison_page import write_comparison as write_comparison
from interpretgan.report.explanation_grid import (
    draw_explanation as draw_explanation,
    load_explanation as load_explanation,
    load_predictions as load_predictions,
    save_explanation as save_explanation,
)
from interpretgan.report.explanation_page import write_explanation as write_explanation
from interpretgan.report.gallery import Gallery as Gallery
from interpretgan.report.page import (
    finished_diagnosis as finished_diagnosis,
    redraw_report as redraw_report,
    write_report as write_report,
)
from interpretgan.report.wording import answer_sentence as answer_sentence, summary_table as summary_table
