"""Our archives and metadata are torch's own, and reading them runs no code."""

import io
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from hf_models import write_model
from torch.distributed.checkpoint import FileSystemReader

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore
from mindrl.checkpoint.formats.inert_pickle import DAMAGE, PLAIN, TENSORS, unpickled
from mindrl.checkpoint.formats.torch_archives import locate_tensor
from mindrl.checkpoint.formats.torch_dist import read_directory
from mindrl.checkpoint.formats.torch_zip import TensorArchive
from mindrl.errors import RequestError

dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
shapes = pytest.mark.parametrize("shape", [(5,), (1, 7), (1, 3, 4), (2, 1, 3)])


def archive_of(tensor: torch.Tensor) -> bytes:
    envelope = TensorArchive(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    payload = tensor.view(torch.uint8).numpy().tobytes()
    crc = zlib.crc32(payload)
    head, tail = envelope.head(crc), envelope.tail(crc)
    assert (len(head), len(tail)) == (envelope.head_size, envelope.tail_size)
    return head + payload + tail


@dtypes
@shapes
def test_torch_loads_an_archive_and_its_checksums_hold(dtype, shape):
    tensor = torch.randn(shape).to(getattr(torch, dtype))
    data = archive_of(tensor)
    assert torch.equal(torch.load(io.BytesIO(data), weights_only=True), tensor)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


@dtypes
@shapes
def test_a_tensor_is_found_in_our_archives_and_in_those_of_torch(tmp_path, dtype, shape):
    tensor = torch.randn(shape).to(getattr(torch, dtype))
    theirs = io.BytesIO()
    torch.save(tensor, theirs)
    for data in (archive_of(tensor), theirs.getvalue()):
        path = tmp_path / "file"
        path.write_bytes(b"x" * 37 + data + b"y" * 11)
        with path.open("rb") as file:
            found = locate_tensor(file, 37, len(data))
        assert (found.shape, found.dtype) == (shape, dtype)
        payload = path.read_bytes()[found.offset : found.offset + tensor.nbytes]
        assert payload == tensor.view(torch.uint8).numpy().tobytes()


def test_payloads_start_at_a_multiple_of_64_like_those_of_torch():
    assert all(TensorArchive((size,), "float32").head_size % 64 == 0 for size in (1, 10, 12345))


def test_a_tensor_that_is_not_contiguous_is_refused(tmp_path):
    path = tmp_path / "file"
    torch.save(torch.randn(4, 3).T, path)
    with path.open("rb") as file, pytest.raises(RequestError, match="not contiguous"):
        locate_tensor(file, 0, path.stat().st_size)


@pytest.mark.parametrize("field", [26, 28], ids=["length of the name", "length of the extra field"])
def test_a_header_that_would_move_the_values_is_refused(tmp_path, field):
    """No checksum is over the header that says where an entry's bytes start."""
    path = tmp_path / "file"
    torch.save(torch.randn(4, 3), path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\3\4", data.index(b"byteorder")) + field] ^= 4
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(RequestError, match="not where its directory says"):
        locate_tensor(file, 0, len(data))


class Trap:
    """Creates a file when unpickled by the ordinary unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_an_archive_or_in_metadata_does_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists(), "the trap works"
    sprung.unlink()

    archive = tmp_path / "archive"
    torch.save(Trap(sprung), archive)
    with archive.open("rb") as file, pytest.raises(RequestError, match="not part of a saved weight"):
        locate_tensor(file, 0, archive.stat().st_size)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(RequestError):
        read_directory(tmp_path)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["torch\nSize", "torch._utils\n_rebuild_tensor_v2", "anything\nelse"])
def test_a_pickle_can_not_change_what_its_names_stand_for(name):
    changes = f"c{name}\n(N}}V__doc__\nVchanged\nstb.".encode()  # setattr(name, "__doc__", "changed")
    with pytest.raises(DAMAGE):
        unpickled(changes, PLAIN | TENSORS)


def test_metadata_reads_the_same_by_hand_and_by_torch(tmp_path):
    convert_hf_to_mcore(write_model(tmp_path / "hf", "qwen2"), tmp_path / "mcore", progress=False)
    ours = read_directory(tmp_path / "mcore/release")
    theirs = FileSystemReader(tmp_path / "mcore/release").read_metadata()
    tensors = {key: entry for key, entry in theirs.state_dict_metadata.items() if hasattr(entry, "chunks")}
    assert ours.keys() == tensors.keys()
    for key, tensor in ours.items():
        assert tensor.shape == tuple(tensors[key].size)
        assert tensor.dtype == str(tensors[key].properties.dtype).removeprefix("torch.")
        found = [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in tensors[key].chunks]
        assert [(chunk.offsets, chunk.sizes) for chunk in tensor.chunks] == found


def test_metadata_has_only_the_fields_that_the_oldest_supported_torch_knows(tmp_path):
    convert_hf_to_mcore(write_model(tmp_path / "hf", "qwen2"), tmp_path / "mcore", progress=False)
    metadata = FileSystemReader(tmp_path / "mcore/release").read_metadata()
    assert vars(metadata).keys() <= {"state_dict_metadata", "planner_data", "storage_data", "storage_meta"}
    for info in metadata.storage_data.values():
        assert vars(info).keys() == {"relative_path", "offset", "length"}
