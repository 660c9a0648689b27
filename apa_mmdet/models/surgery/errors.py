from collections.abc import Iterable, Sequence
from typing import Any

from apa_mmdet.utils.errors import CodedError

MESSAGES = {
    'invalid-module': "module must be a config, such as module=dict(type='ResNet'); got {given!r}",
    'invalid-swap': "swap must map types to new activations, such as swap=dict(ReLU=dict(type='AGLU')); got {given!r}",
    'invalid-activation': "swap={{'{names}': …}} must give a config, such as dict(type='AGLU'); got {given!r}",
    'missing-type': 'no {names} in {module}; its activations are {listed}',
    'module-is-activation': 'the module is itself a {names}; only the children of a module can be swapped, so build '
    'the other activation instead',
    'unmatched-pattern': "pattern '{names}' matches none of the {count} call sites in {module}, which are {listed}",
    'unknown-call-sites': 'the call sites of some activations are unknown ({reasons}); keep these activations with '
    'exclude={exclude}',
    'unknown-channels': '{types} needs the channel count, but the channels are not in dimension 1 (tokens), or no '
    'guessed input suits the module; set num_features=1, or keep these activations with exclude={exclude}',
    'nothing-to-swap': 'nothing to swap in {module}: every {names} is excluded, or never called',
}
"""Codes of :class:`SwapError` and their messages; ``names`` are its types, patterns, activations or call sites."""


class SwapError(CodedError):
    """Raised where activations cannot be swapped; the module is unchanged.

    Attributes:
        names: types, patterns, activations or call sites that the error is about.
    """

    names: Sequence[str] = ()

    @classmethod
    def of(cls, code: str, names: Iterable[str] = (), **values: Any) -> 'SwapError':
        """The error of a code in :data:`MESSAGES`; ``values`` are what the message shows beside ``names``."""
        names = list(names)
        error = cls(code, 'SwapActivations: ' + MESSAGES[code].format(names=' or '.join(names), **values))
        error.names = names
        return error
