"""Stands in for CANN's Python interface, of which Ray asks how many devices a machine has, and of which kind.

Copied to the folder of the build, from where `startup.py` puts it on the search path."""

import ctypes
from pathlib import Path

_runtime = ctypes.CDLL(str(Path(__file__).parent.parent / "libvirtual_npu.so"))
_runtime.aclrtGetSocName.restype = ctypes.c_char_p


class rt:
    """CANN's name for what is asked of the runtime."""

    @staticmethod
    def get_device_count() -> tuple[int, int]:
        """How many, and CANN's error code."""
        count = ctypes.c_uint32()
        error = _runtime.aclrtGetDeviceCount(ctypes.byref(count))
        return count.value, int(error)


def get_soc_name() -> str:
    """Such as Ascend910B3."""
    return _runtime.aclrtGetSocName().decode()
