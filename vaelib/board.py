"""What TensorBoard shows of a run: curves, panels of images, and the codes in its projector.

It needs the extra ``vaelib[tensorboard]``; ``tensorboard --logdir runs`` opens what is written.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.nn import functional as F

from vaelib.evaluation import evaluation_mode
from vaelib.models import VAE
from vaelib.seeding import generator
from vaelib.training import TrainingState

PANEL, CODES = 32, 2000
"""Images in a panel, and codes in the projector."""


class Board:
    """A log for TensorBoard, written after every epoch; a context that ends the log.

    Parameters
    ----------
    folder
        Where it lies.
    test, labels
        The test images ``[N, 1, H, W]``, and their labels, if any: shown in the panels and in
        the projector.
    done
        Epochs that are finished; what the log says of later ones is hidden.

    Raises
    ------
    ModuleNotFoundError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: Path, test: Tensor, labels: Tensor | None, *, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                "TensorBoard is not installed; expected pip install 'vaelib[tensorboard]'."
            ) from error
        self._writer = SummaryWriter(folder, purge_step=done + 1)
        self._test, self._labels = test[:CODES], labels

    def __enter__(self) -> Board:
        """Begin the log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the log."""
        self._writer.close()

    @torch.no_grad()
    def show(self, model: VAE, state: TrainingState) -> None:
        """Add the curves and the panels of an epoch; the training goes on as if nobody looked."""
        for split in ("train", "test"):
            report = getattr(state.history, split)[-1]
            for quantity in ("distortion", "rate", "negative_elbo"):
                value = getattr(report, quantity)
                self._writer.add_scalar(f"{quantity}/{split}", value, state.epoch)
        x = self._test[:PANEL]
        with evaluation_mode(model):
            panels = {
                "samples": model.sample(PANEL, generator=generator(0, "panel", model.device)),
                "reconstructions": torch.cat((x, model.reconstruct(x))),
            }
        for name, images in panels.items():
            self._writer.add_images(name, images.cpu().clamp(0, 1), state.epoch)

    def show_codes(self, model: VAE, *, epoch: int) -> None:
        """Add the means of the codes of the test images, each with its image and label."""
        labels = None if self._labels is None else self._labels[:CODES].tolist()
        # The projector draws in three dimensions, and nothing at all if there are only two.
        codes = F.pad(model.embed(self._test), (0, max(0, 3 - model.latent_dim)))
        self._writer.add_embedding(codes, labels, self._test, global_step=epoch, tag="test images")
