"""Holds what this project uses against what packages have."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hal.devices.npu import NpuAccelerator
from mindrl.rollout.choose import engine_environment
from tests.production.uses import Use
from tests.production.wheels import Packages

OPERATOR = "torch.ops.npu."
READ_BY = {"VLLM_ASCEND_": "vllm_ascend.envs", "VLLM_": "vllm.envs"}
"""Which module reads environment variables that begin so."""
SAME = {
    "device_type": NpuAccelerator.device_type,
    "ray_device_key": NpuAccelerator.ray_resource,
    "device_control_env_var": NpuAccelerator.visible_devices_variable,
}
"""Attributes of vllm-ascend's platform that must say what the accelerator says."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One use and what is wrong with it, if anything."""

    use: Use
    problem: str | None


def check(uses: Iterable[Use], packages: Packages) -> list[Verdict]:
    """A verdict on every use."""
    schemas = packages.schemas()
    return [Verdict(use, _problem(use, packages, schemas)) for use in uses]


def check_environment(packages: Packages) -> list[Verdict]:
    """A verdict on every variable that the accelerator sets for vLLM, and on the names both sides have for devices."""
    accelerator = NpuAccelerator(None)
    verdicts: list[Verdict] = []
    for variable in engine_environment(accelerator):
        module = next((module for prefix, module in READ_BY.items() if variable.startswith(prefix)), None)
        if module is not None:
            known = f"'{variable}'" in packages.text(module).replace('"', "'")
            problem = None if known else f"{module} reads no such variable"
            verdicts.append(Verdict(Use("hal/devices/npu.py", variable), problem))
    for name, value in SAME.items():
        found = packages.text(f"vllm_ascend.platform.NPUPlatform.{name}")
        problem = None if f"'{value}'" in found.replace('"', "'") else f"it says {found!r}, not {value!r}"
        verdicts.append(Verdict(Use("hal/devices/npu.py", f"NPUPlatform.{name}"), problem))
    for name in accelerator.rollout_arguments()["additional_config"]:
        known = f"'{name}'" in packages.text("vllm_ascend.ascend_config").replace('"', "'")
        verdicts.append(
            Verdict(Use("hal/devices/npu.py", f"additional_config.{name}"), None if known else "is not read")
        )
    return verdicts


def _problem(use: Use, packages: Packages, schemas: Mapping[str, list[inspect.Signature]]) -> str | None:
    if use.name.startswith(OPERATOR):
        candidates = schemas.get(use.name.removeprefix(OPERATOR), [])
        if not candidates:
            return "is not registered"
    elif packages.find(use.name) is None and not packages.has_module(use.name):
        return "does not exist"
    else:
        found = packages.signature(use.name)
        candidates = [found] if found is not None else []
    if use.positional is None or not candidates:
        return None
    reasons = [_misfit(use, signature) for signature in candidates]
    return None if None in reasons else f"is called otherwise: {'; '.join(map(str, reasons))}"


def _misfit(use: Use, signature: inspect.Signature) -> str | None:
    bind = signature.bind if use.complete else signature.bind_partial
    try:
        bind(*[None] * (use.positional or 0), **dict.fromkeys(use.keywords))
    except TypeError as error:
        return f"{error}, of {signature}"
    return None
