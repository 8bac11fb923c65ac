"""pxbridge: PersonaPlex, a full-duplex speech model, on the telephone."""

import warnings

from pxbridge import _native

__version__ = _native.__version__

if not _native.OPTIMISED:
    warnings.warn(
        "this pxbridge was built without optimisation and is many times slower than it should be; "
        "build it with `maturin develop --release` or `pip install .`",
        RuntimeWarning,
        stacklevel=2,
    )
