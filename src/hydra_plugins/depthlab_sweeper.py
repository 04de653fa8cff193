"""Hydra's basic sweep, which first checks all runs, skips the finished ones, and tells at the end how each went."""

import logging
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus

from depthlab.config import experiment_rows

log = logging.getLogger("depthlab")


class DepthlabSweeper(BasicSweeper):
    """`python train.py -m ...`: the grid of runs, each at most once."""

    def sweep(self, arguments: list[str]) -> Any:
        """Launches the runs that are not finished. Raises Mistake before the first one if any of them is wrong;
        exits with 1 if any run failed.
        """
        from depthlab.describe import result
        from depthlab.observe import log_to_console
        from depthlab.plan import plan

        if self.hydra_context is None or self.config is None or self.launcher is None:
            raise RuntimeError("setup() comes before sweep()")
        log_to_console()
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        rows = experiment_rows(self.config.experiment, self.config.hydra.runtime.choices.data)
        sweeps = [parser.parse_overrides([*row, *self._parse_config(), *arguments]) for row in rows]
        grid = [list(job) for sweep in sweeps for batch in self.split_arguments(sweep, None) for job in batch]
        composed = [loader.load_sweep_config(self.config, job) for job in grid]
        plans = [plan(cfg, cfg.hydra.runtime.choices) for cfg in composed]
        jobs = {planned.run.path: (planned, job) for planned, job in zip(plans, grid, strict=True)}
        done = {path: planned.run.finished() for path, (planned, _) in jobs.items() if not planned.cfg.rerun}
        left = {path: job for path, (_, job) in jobs.items() if not done.get(path)}
        log.info(f"{len(jobs)} run{'s' * (len(jobs) != 1)}: {len(jobs) - len(left)} done, {len(left)} to run")
        for summary in filter(None, done.values()):
            log.info(result(summary))
        if not left:
            return []

        returns = self.launcher.launch(list(left.values()), initial_job_idx=0)
        failed = [
            f"{path.name}: failed: {job._return_value}"
            for path, job in zip(left, returns, strict=True)
            if job.status is not JobStatus.COMPLETED
        ]
        for line in failed:
            log.error(line)
        log.info("tensorboard --logdir %s", self.config.output_dir)
        if failed:
            raise SystemExit(1)
        return [returns]
