"""Which device networks run on."""

import torch

from interpretgan.errors import ConfigError


def find_device(name: str) -> torch.device:
    """The device of that name, or a `ConfigError`; `auto` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        got, do = f"{name} ({str(error).splitlines()[0]})", "use --device cpu or auto"
        raise ConfigError(expected="a device of this machine", got=got, do=do) from error
    return device
