"""The report: one diagnosis as a sentence, a table for the terminal and a self-contained HTML page."""

from interpretgan.report.page import write_report as write_report
from interpretgan.report.pictures import draw_explanation as draw_explanation
from interpretgan.report.pictures import load_explanation as load_explanation
from interpretgan.report.pictures import save_explanation as save_explanation
from interpretgan.report.wording import answer_sentence as answer_sentence
from interpretgan.report.wording import summary_table as summary_table
