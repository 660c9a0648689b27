"""What calibrations of class scores share: statistics of the training data, and the classes that they are of."""

from collections.abc import Sequence

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from apa_mmdet.datasets.calibration_statistics import CalibrationStatistics, load_calibration_statistics
from apa_mmdet.utils.findings import ValidationError
from apa_mmdet.utils.missing_data_hints import hint_for

from .errors import CalibrationError


class Calibration(nn.Module):
    """Changes class logits so that the scores which a head makes of them are calibrated; nothing is trained.

    Its tensors are not in checkpoints, so that it fits every checkpoint.

    Args:
        stats: path of the training annotations, which are measured once and cached, of the statistics that
            ``tools/class_statistics.py`` has written of them, or the statistics themselves as
            ``dict(image_count=[…])``, with ``n_images`` (default: the sum) and ``fractal_dimension=[…]``.
        classes: names of the classes in order of the labels, by which they are found among the statistics. Where there
            are none, SafeRunner gives those of the evaluated data, and inference and export those of the checkpoint.
            Without any, all classes of the statistics are taken in their order, which is logged.

    Raises:
        CalibrationError: if there is no such file, it is damaged, or lacks a class.
    """

    def __init__(self, stats: str | dict, classes: Sequence[str] | None = None) -> None:
        super().__init__()
        self._all = _read(stats)
        self.origin = self._all.origin
        self._classes: tuple[str, ...] | None = None
        self.classes = classes

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._classes

    @classes.setter
    def classes(self, classes: Sequence[str] | None) -> None:
        try:
            statistics = self._all.of(classes)
        except ValidationError as error:
            raise CalibrationError(error.code, str(error)) from None
        self._classes = None if classes is None else tuple(classes)
        for name, values in self.shifts(statistics).items():
            device = getattr(self, name, values).device  # classes may be named after the model has been moved
            self.register_buffer(name, values.to(device, torch.float32), persistent=False)
        self.num_classes = len(statistics.image_count)

    def settle_order(self) -> None:
        """Take the classes in the order of the statistics, if nothing has named them before the first scores."""
        if self._classes is None and self._all.names is not None:
            self._classes = tuple(self._all.names)
            MMLogger.get_current_instance().warning(
                f'calibration: nothing names the classes, which are taken in the order of {self.origin}: '
                f'{", ".join(self._classes[:3])} …; otherwise set calibration.classes'
            )

    def shifts(self, statistics: CalibrationStatistics) -> dict[str, Tensor]:
        """The tensors (C,) by which the logits of C classes change, by name."""
        raise NotImplementedError(f'{type(self).__name__} does not define shifts')

    def forward(self, logits: Tensor, link: nn.Module | None, channels: 'Channels') -> Tensor:
        """Calibrated logits, float32 (float64 for float64).

        Args:
            logits: of any shape.
            link: from a logit to the probability of one class, see :mod:`~apa_mmdet.models.losses.links`; None for
                the softmax over all.
            channels: spreads a tensor (C,) over the logits.
        """
        raise NotImplementedError(f'{type(self).__name__} does not define forward')

    def extra_repr(self) -> str:
        return f'num_classes={self.num_classes}, stats={self.origin!r}'


class Channels:
    """Spreads values of C classes over logits: over each prior, and with a neutral value for other channels.

    Args:
        extra: channels after those of the classes, as of the background.
        priors: repetitions, one after the other.
        trailing: dimensions after that of the channels.

    Example:
        >>> Channels(extra=1, priors=2)(torch.tensor([3.0, 4.0]), neutral=0.0)
        tensor([3., 4., 0., 3., 4., 0.])
    """

    def __init__(self, extra: int = 0, priors: int = 1, trailing: int = 0) -> None:
        self.extra, self.priors, self.trailing = extra, priors, trailing

    def __call__(self, values: Tensor, neutral: float) -> Tensor:
        values = values.to(torch.promote_types(values.dtype, torch.float32))  # in a model of half precision
        if self.extra:
            values = torch.cat([values, values.new_full((self.extra,), neutral)])
        return values.repeat(self.priors).view(-1, *[1] * self.trailing)


def name_classes(model: nn.Module, classes: Sequence[str] | None) -> None:
    """Tells the calibrations of a model that know no classes the names of them, in order of the labels."""
    for module in model.modules():
        if isinstance(module, Calibration) and module.classes is None:
            module.classes = classes


def _read(stats: str | dict) -> CalibrationStatistics:
    try:
        return load_calibration_statistics(stats)
    except FileNotFoundError:
        hint = hint_for(str(stats))
        raise CalibrationError.of('missing-file', path=stats, hint=f' ({hint})' if hint else '') from None
    except TypeError:
        raise CalibrationError.of('invalid-stats', given=f'{stats!r:.60}') from None
    except ValidationError as error:
        raise CalibrationError(error.code, f'calibration: {error}') from None
