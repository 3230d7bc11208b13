"""Reports that people look at: one self-contained HTML page each."""

from ertacache.report.evaluation import report_comparison, report_evaluation
from ertacache.report.page import Case, Cases, Grid, Page, Plot, Section, write
from ertacache.report.policies import policy_section, report_policy

__all__ = [
    "Case",
    "Cases",
    "Grid",
    "Page",
    "Plot",
    "Section",
    "policy_section",
    "report_comparison",
    "report_evaluation",
    "report_policy",
    "write",
]
