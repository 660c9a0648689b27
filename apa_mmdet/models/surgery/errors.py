from collections.abc import Sequence


class SwapError(ValueError):
    """Raised where activations cannot be swapped; the module is unchanged.

    Args:
        code: one of

            - ``invalid-module``: ``module`` is not a config;
            - ``invalid-swap``: ``swap`` is not a dict from types to configs;
            - ``invalid-activation``: ``swap`` gives something else than a config for the type in ``names``;
            - ``missing-type``: the module has no activation of the types in ``names``;
            - ``module-is-activation``: the module is itself an activation of the type in ``names``;
            - ``unmatched-pattern``: the pattern in ``names`` matches no activation;
            - ``unknown-call-sites``: those of the activations in ``names`` are unknown;
            - ``unknown-channels``: the channel count at the call sites in ``names`` is needed and unknown;
            - ``nothing-to-swap``: every activation of the types in ``names`` is excluded or never called.
        message: what is wrong and what to do, in one line.
        names: types, patterns, activations or call sites that the error is about.
    """

    def __init__(self, code: str, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(f'SwapActivations: {message}')
        self.code = code
        self.names = list(names)
