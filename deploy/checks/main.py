"""Every check of the deployment, one line each. See `run`."""

import sys

import chart
import image
import live
import pages
import rules
from report import Report

if __name__ == "__main__":
    report = Report()
    only = set(sys.argv[1:])
    for part in (chart, rules, pages, image, live):
        if not only or part.__name__ in only:
            part.run(report)
    sys.exit(report.close())
