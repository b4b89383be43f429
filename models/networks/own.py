"""Networks from the user's own code: ``python:<module>:<function>``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import InputError

if TYPE_CHECKING:
    from torch import nn

PREFIX = "python:"


def build_own(name: str, num_classes: int) -> nn.Module:
    """Call ``function(num_classes=...)`` of a module, which is first searched in this folder.

    Raises:
        InputError: the function does not exist, fails, or does not return a network.
    """
    from torch import nn

    module, _, function = name.partition(":")
    problem = f"network '{PREFIX}{name}'"
    if not module or not function:
        raise InputError(f"{problem}: expected {PREFIX}<module>:<function>; correct its name")
    code_sha256(PREFIX + name)
    try:
        network = getattr(importlib.import_module(module), function)(num_classes=num_classes)
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())
        raise InputError(
            f"{problem} cannot be built ({type(error).__name__}: {reason:.200}); correct the code"
        ) from None
    if not isinstance(network, nn.Module):
        raise InputError(f"{problem} is {type(network).__name__}, expected a torch.nn.Module")
    return network


def code_sha256(name: str) -> str | None:
    """Return the checksum of the file that defines an own network; None for other networks.

    Raises:
        InputError: the module does not exist, or the package that it is in fails.
    """
    if not name.startswith(PREFIX):
        return None
    module = name.removeprefix(PREFIX).partition(":")[0]
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:  # only python -m adds the current folder
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be as new as the last search of its folder
    spec, reason = None, ""
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # it imports the packages around the module
        reason = f" ({type(error).__name__}: {error})"
    if spec is None or spec.origin is None or not spec.has_location:
        raise InputError(
            f"network '{name}': no module {module!r} is found{reason}; correct its name or code"
        )
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
