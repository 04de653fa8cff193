"""What TensorBoard shows of a run, written into its directory."""

import threading
from pathlib import Path
from typing import Any


class TensorBoard:
    """Metrics as scalars against iterations, and the hyper-parameters, all in the run's own directory."""

    def __init__(self, path: Path, purge_step: int, hyperparameters: dict[str, Any]) -> None:
        """`purge_step`: what an earlier, interrupted start wrote from there on is void."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.usual, threading.excepthook = threading.excepthook, self._fails
        self.writer = SummaryWriter(str(path), purge_step=purge_step, flush_secs=10)
        overlay = {name: ["Multiline", [f"{name}/train", f"{name}/test"]] for name in ("error", "loss")}
        self.writer.add_custom_scalars({"train and test": overlay})
        file = self.writer._get_file_writer()
        for part in hparams(hyperparameters, dict.fromkeys(("error/train", "error/test"))):
            file.add_summary(part)  # pyrefly: ignore[missing-attribute]

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """train_error becomes error/train, test_border_iou iou/test_border, lr learning_rate."""
        for key, value in metrics.items():
            split, _, kind = key.rpartition("_")
            if kind in ("error", "loss", "iou"):
                self.writer.add_scalar(f"{kind}/{split}", value, step)
            elif key == "lr":
                self.writer.add_scalar("learning_rate", value, step)

    def look(self, probe: str, step: int, values: dict[str, Any]) -> None:
        """What a probe has measured: numbers as scalars, lists of numbers as a figure."""
        from depthlab.reports.profile import sketch

        for key, value in values.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"probe/{probe}/{key}", value, step)
        figure = sketch(values)
        if figure is not None:
            self.writer.add_figure(f"probe/{probe}", figure, step)

    def flush(self) -> None:
        """Hands all to the system, as a checkpoint must not be ahead of what is shown."""
        self.writer.flush()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.writer.close()
        finally:
            threading.excepthook = self.usual

    def _fails(self, failure: threading.ExceptHookArgs) -> None:
        """The writer's thread hands its error to the next flush, which needs no traceback beside it."""
        if type(failure.thread).__name__ != "_AsyncWriterThread":
            self.usual(failure)
