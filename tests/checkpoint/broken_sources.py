"""Ways to break what a conversion reads, and circumstances in which it can't go on.

The working directory holds the sources of `conversion_failures.write_sources`."""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[], object]
TO_MCORE = ("--load-model-type", "hf", "--save-model-type", "mg", "--load-dir", "hf", "--save-dir", "new")


NORM, LAST = "model.norm.weight", "lm_head.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n"
PAYLOAD = "mcore/release/__0_0.distcp"

# Ways to break a Hugging Face directory.


def shards(directory: str = "hf") -> list[Path]:
    return sorted(Path(directory).glob("*.safetensors"))


def weights(directory: str = "hf") -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for path in shards(directory) for name, tensor in load_file(path).items()}


def tensors(change: Callable[[dict[str, Any]], object], directory: str = "hf") -> Change:
    """Other tensors, in one file."""

    def apply() -> None:
        from safetensors.torch import save_file

        changed = weights(directory)
        change(changed)
        for path in (*shards(directory), Path(directory, "model.safetensors.index.json")):
            path.unlink(missing_ok=True)
        save_file(changed, Path(directory, "model.safetensors"), metadata={"format": "pt"})

    return apply


def set_json(path: str, **changes: Any) -> Change:
    """Change keys of a JSON file."""

    def change() -> None:
        Path(path).write_text(json.dumps({**json.loads(Path(path).read_text()), **changes}))

    return change


def set_place(tensor: str, file: str) -> Change:
    """Another file for a tensor in the index."""

    def change() -> None:
        path = Path("hf/model.safetensors.index.json")
        content = json.loads(path.read_text())
        content["weight_map"][tensor] = file
        path.write_text(json.dumps(content))

    return change


def cut_off(path: str, num_bytes: int = 10) -> Change:
    """The end of the first file that matches is missing."""

    def change() -> None:
        found = sorted(Path().glob(path))[0]
        found.write_bytes(found.read_bytes()[:-num_bytes])

    return change


def longer(path: str) -> Change:
    """The first file that matches goes on after its end."""

    def change() -> None:
        found = sorted(Path().glob(path))[0]
        found.write_bytes(found.read_bytes() + bytes(8))

    return change


def overwrite(path: str, content: bytes, at: int | None = None) -> Change:
    """Other bytes in the first file that matches; the whole of it, or from byte `at` on."""

    def change() -> None:
        found = sorted(Path().glob(path))[0]
        before = found.read_bytes()
        found.write_bytes(content if at is None else before[:at] + content + before[at + len(content) :])

    return change


def remove(path: str) -> Change:
    """The first file that matches is gone."""
    return lambda: sorted(Path().glob(path))[0].unlink()


def replace_by(path: str, make: Callable[[Path], object]) -> Change:
    """Something else under the name of the first file that matches."""

    def change() -> None:
        found = sorted(Path().glob(path))[0]
        found.unlink()
        make(found)

    return change


def twice() -> None:
    """A tensor is in two files, and the index knows one."""
    from safetensors.torch import load_file, save_file

    first, second = shards()[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor}, second, metadata={"format": "pt"})


def long_header() -> None:
    path = shards()[0]
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def in_another_type(dtype: str) -> Callable[[dict[str, Any]], None]:
    """One weight of another type than the rest."""

    def change(named: dict[str, Any]) -> None:
        import torch

        name = "model.layers.1.self_attn.k_proj.weight"
        named[name] = named[name].to(getattr(torch, dtype))

    return change


def put(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    """One value of a tensor."""
    return lambda named: named[name].view(-1)[3:4].fill_(value)


def tied_with_another_output_layer(named: dict[str, Any]) -> None:
    named["lm_head.weight"][0, 0] += 1
    set_json("hf/config.json", tie_word_embeddings=True)()


def only_pickled() -> None:
    for path in (*shards(), Path("hf/model.safetensors.index.json")):
        path.unlink()
    Path("hf/pytorch_model.bin").write_bytes(b"PK")


def an_fp8_weight(named: dict[str, Any]) -> str:
    return next(name for name in sorted(named) if f"{name}_scale_inv" in named)


def without_scales(named: dict[str, Any]) -> None:
    del named[f"{an_fp8_weight(named)}_scale_inv"]


def with_longer_scales(named: dict[str, Any]) -> None:
    import torch

    named[f"{an_fp8_weight(named)}_scale_inv"] = torch.ones(7, 1)


def with_nan_scale(named: dict[str, Any]) -> None:
    named[f"{an_fp8_weight(named)}_scale_inv"].fill_(float("nan"))


def with_nan_code(named: dict[str, Any]) -> None:
    import torch

    named[an_fp8_weight(named)].view(torch.uint8)[0, 2] = 0x7F


# Ways to break a checkpoint.


def flip_a_weight() -> None:
    """In the middle of the values of a weight; no size and no description changes."""
    from mindrl.checkpoint.formats.torch_archives import locate_tensor
    from mindrl.checkpoint.formats.torch_dist import read_directory

    chunk = read_directory(Path("mcore/release"))["embedding.word_embeddings.weight"].chunks[0]
    with Path(PAYLOAD).open("rb") as file:
        stored = locate_tensor(file, chunk.offset, chunk.length)
    overwrite(PAYLOAD, bytes([Path(PAYLOAD).read_bytes()[stored.offset + 100] ^ 1]), stored.offset + 100)()


def damage_description() -> None:
    """Of the first tensor's shape and type, in its archive."""
    place = Path(PAYLOAD).read_bytes().index(b"torch._utils")
    overwrite(PAYLOAD, b"x", place)()


def checkpoint_without_output_layer() -> None:
    """A tied model's, with the config.json of an untied one."""

    def tie(named: dict[str, Any]) -> None:
        del named[LAST]

    checkpoint_of(tie, {"tie_word_embeddings": True})()


def checkpoint_of(change: Callable[[dict[str, Any]], object], config: dict[str, Any] | None = None) -> Change:
    """A sound checkpoint of other tensors than hf's."""

    def apply() -> None:
        from mindrl.cli.main import main

        tensors(change)()
        set_json("hf/config.json", **(config or {}))()
        shutil.move("mcore/hf", "mcore-hf")
        shutil.rmtree("mcore")
        assert main(("convert", *TO_MCORE[:-1], "mcore", "--allow-nan")) == 0
        shutil.rmtree("mcore/hf")
        shutil.move("mcore-hf", "mcore/hf")

    return apply


# Circumstances: what goes wrong while the conversion runs, in its own process.

KILL_AT_WRITE = """
import os, signal
calls, pwrite = [], os.pwrite
def counted(*arguments):
    calls.append(1)
    if len(calls) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return pwrite(*arguments)
os.pwrite = counted
"""
KILL_AT_OPEN = """
import os, signal, sys
def hook(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wx" and str(arguments[0]).endswith("{name}"):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
KILL_AT_RENAME = """
import os, signal, sys
def hook(event, arguments):
    if event == "os.rename" and os.path.basename(arguments[1]) == "new":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
NO_LARGE_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
"""
SOURCE_CHANGES = """
import os, sys
written = []
def hook(event, arguments):
    if event == "open" and not written and str(arguments[0]).endswith("{name}") and arguments[2] & os.O_CREAT:
        written.append(1)
        os.utime("{source}")
sys.addaudithook(hook)
"""
WAIT_AT_OPEN = """
import os, sys
waited = []
def hook(event, arguments):
    written = event == "open" and str(arguments[0]).endswith((".distcp", ".safetensors")) and arguments[2] & os.O_CREAT
    if written and not waited:
        waited.append(1)
        print("ready", flush=True)
        sys.stdin.readline()
sys.addaudithook(hook)
"""
DISK_FILLS = """
import os, sys
filled = []
def hook(event, arguments):
    if event == "open" and not filled and str(arguments[0]).endswith((".distcp", ".safetensors")) and arguments[2] & os.O_CREAT:
        filled.append(1)
        with open("disk/neighbour", "wb", buffering=0) as neighbour:
            try:
                while True:
                    neighbour.write(bytes(4096))
            except OSError:
                pass
sys.addaudithook(hook)
"""


# What is in the way of a result.


def occupy(name: str) -> None:
    """A directory of somebody's."""
    Path(name).mkdir()
    Path(name, "thesis.txt").write_text("my life's work")


def free(name: str) -> None:
    """The same, moved away."""
    Path(name).rename("elsewhere")


def lock() -> None:
    """A directory that nothing can be created in."""
    Path("locked").mkdir()
    Path("locked").chmod(0o555)


def unlock() -> None:
    Path("locked").chmod(0o755)


def enlarge_disk() -> None:
    """The small one that is mounted at `disk`."""
    subprocess.run(["mount", "-o", "remount,size=64m", "disk"], check=True)
