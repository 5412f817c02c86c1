"""A process that is ready to train, and where its time goes."""

import json
import types
from pathlib import Path

import pytest
import torch

import hal


def test_a_process_gets_the_devices_defaults_and_keeps_its_own_settings(
    accelerator: hal.Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = accelerator.environment_defaults(processes_per_node=2)
    for name in defaults:
        monkeypatch.delenv(name, raising=False)
    kept = dict(list(defaults.items())[:1])
    for name in kept:
        monkeypatch.setenv(name, "17")
    threads = torch.get_num_threads()
    try:
        done = hal.prepare_process(accelerator, processes_per_node=2)
        again = hal.prepare_process(accelerator, processes_per_node=2)
    finally:
        torch.set_num_threads(threads)
        for name in defaults:
            monkeypatch.delenv(name)
    assert done.environment == {name: value for name, value in defaults.items() if name not in kept}
    assert again.environment == {}


def test_modules_that_say_cuda_reach_the_device(accelerator: hal.Accelerator) -> None:
    module = types.ModuleType("says_cuda")
    source = "import torch\ndef ones(): return torch.ones(2, device=torch.cuda.current_device())"
    exec(compile(source, "says_cuda", "exec"), vars(module))
    if accelerator.device_type == "cuda":
        assert hal.prepare_process(accelerator, [module]).redirect.redirected == ()
    else:
        assert hal.prepare_process(accelerator, [module]).redirect.redirected == ("says_cuda",)
    ones = module.ones()
    assert ones.device == accelerator.device()
    assert ones.sum().item() == 2


def test_a_profile_shows_operators_and_named_ranges(accelerator: hal.Accelerator, tmp_path: Path) -> None:
    ones = torch.ones(64, 64, device=accelerator.device())
    with accelerator.profiler() as profile, accelerator.named_range("the two of them"):
        _ = ones @ ones
        accelerator.synchronize()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"the two of them", "aten::mm"} <= names
