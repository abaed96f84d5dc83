"""Every check of the deployment, one line each. See `run`."""

import signal
import sys

import chart
import image
import live
import pages
import rules
import runc
from report import Report

if __name__ == "__main__":
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    only = set(sys.argv[1:])
    for part in (chart, rules, pages, image, runc, live):
        if not only or part.__name__ in only:
            part.run(report)
    sys.exit(report.close())
