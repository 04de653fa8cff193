"""Tables, figures and verdicts from run directories alone: `python scripts/report.py outputs/NAME`; see --help."""

from depthlab.reports.command import main

if __name__ == "__main__":
    main()
