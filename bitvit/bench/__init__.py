"""Measuring packed models: latency and throughput, start-up, memory, and where the time goes.

    from bitvit import bench

    report = bench.measure("model.safetensors", batch_sizes=[1, 8], threads=[1, 2], profile=True)
    print(bench.markdown(report))
    comparison = bench.compare(bench.BenchReport.read("before.json"), report)

measuring   calls of a model, timed; the report
report      what was found, as objects and JSON: its schema
limits      what the machine can do at best
profile     the steps of one image against these limits
pipeline    the user's image files, from reading to predictions
startup     fresh processes: import, loading, first image, compiling, memory
together    the same work on several threads at once
machine     processor, versions, load
forms       a report as tables, Markdown and CSV
comparison  two reports
plot        a profile as an image
"""

from bitvit.bench.comparison import ReportComparison, compare
from bitvit.bench.formats import comparison_markdown, markdown, write_csv
from bitvit.bench.machine import Environment
from bitvit.bench.measuring import measure
from bitvit.bench.report import (
    BenchReport,
    ImageTimes,
    ModelFacts,
    Part,
    PipelineRun,
    PreprocessingTimes,
    Profile,
    Result,
    Startup,
)

__all__ = [
    "BenchReport",
    "Environment",
    "ImageTimes",
    "ModelFacts",
    "Part",
    "PipelineRun",
    "PreprocessingTimes",
    "Profile",
    "ReportComparison",
    "Result",
    "Startup",
    "compare",
    "comparison_markdown",
    "markdown",
    "measure",
    "write_csv",
]
