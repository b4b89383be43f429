"""A TensorRT without a GPU: what stages.runtimes.tensorrt_engine uses of it, on onnxruntime.

It refuses what TensorRT refuses, answers with False, None or a negative number as that does, and
logs the reason to the standard output. ``STAND_IN_TENSORRT`` is the version that it is: 10.x, in
which only a strongly typed network keeps the precision of its file, or 11.x, which knows no other.
"""

from .building import *  # noqa: F403
from .names import *  # noqa: F403
from .names import __version__ as __version__
from .running import *  # noqa: F403
