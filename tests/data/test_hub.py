"""Data sets of the Hugging Face hub: its real client against a small server of the same protocol on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mindrl.data.hub import HubName, choose, parse
from mindrl.data.raw_files import find_files
from mindrl.errors import RequestError

COMMIT = "1" * 40
ROWS = "".join(json.dumps({"question": f"q{i}", "answer": str(i)}) + "\n" for i in range(5)).encode()
FILES = {
    "README.md": b"# a set",
    "main/train-00000-of-00002.jsonl": ROWS,
    "main/train-00001-of-00002.jsonl": ROWS,
    "main/test-00000-of-00001.jsonl": ROWS,
}


class Hub(BaseHTTPRequestHandler):
    """Serves `FILES` as the data set owner/small."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/owner/small/tree/"):
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in FILES.items()
            ]
            content = json.dumps(listed).encode()
        elif path.startswith("/datasets/owner/small/resolve/"):
            name = path.removeprefix("/datasets/owner/small/resolve/").partition("/")[2]
            content = FILES[name]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(timeout=10)


def preprocess(tmp_path: Path, tokenizer: Path, source: str, **environment: str) -> tuple[int, str, str]:
    """`mindrl preprocess --json` in a process of its own: the client reads its environment once."""
    yaml = tmp_path / "set.yaml"
    yaml.write_text(
        f"input: {source}\noutput_prefix: {tmp_path}/out/set\ntokenizer_name_or_path: {tokenizer}\n"
        "prompt_type: empty\nseq_length: 64\nmap_keys: {prompt: question, response: answer}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mindrl", "preprocess", str(yaml), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0", **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_data_set_is_fetched_by_its_name(tmp_path: Path, tokenizer_dir: Path, endpoint: str):
    source = "hf://datasets/owner/small/main/train-*"
    code, out, err = preprocess(tmp_path, tokenizer_dir, source, HF_ENDPOINT=endpoint)
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["num_prompts"], facts["input"]) == (10, source)


def test_a_data_set_that_is_not_there_is_refused(tmp_path: Path, tokenizer_dir: Path, endpoint: str):
    code, _, err = preprocess(tmp_path, tokenizer_dir, "hf://datasets/owner/none", HF_ENDPOINT=endpoint)
    assert code == 2
    assert f"hf://datasets/owner/none: can't be fetched from {endpoint}: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_a_network_the_remedy_is_named(
    tmp_path: Path, tokenizer_dir: Path, environment: dict[str, str]
):
    code, _, err = preprocess(tmp_path, tokenizer_dir, "hf://datasets/owner/small", **environment)
    assert code == 2
    assert "`hf download owner/small --repo-type dataset --local-dir DIR`" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://datasets/a/b", HubName("a/b", None, None)),
        ("hf://datasets/a/b@v1.0", HubName("a/b", "v1.0", None)),
        ("hf://datasets/a/b@main/data/train-*", HubName("a/b", "main", "data/train-*")),
        (
            "hf://datasets/a/b@refs/convert/parquet/main/train/*",
            HubName("a/b", "refs/convert/parquet", "main/train/*"),
        ),
    ],
)
def test_names_say_repository_revision_and_files(source: str, name: HubName):
    assert parse(source) == name


def test_a_name_without_owner_is_refused():
    with pytest.raises(RequestError, match="write hf://datasets/OWNER/NAME"):
        parse("hf://datasets/gsm8k")


def test_several_sets_have_to_be_told_apart():
    names = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert choose("s", None, names) == names
    with pytest.raises(RequestError, match=r"say which: s/data/test.json, s/data/train-\*.parquet"):
        choose("s", None, [*names, "data/test.json"])
    with pytest.raises(RequestError, match=r"no such file of rows; it has data/train-"):
        choose("s", "x*", names)


def test_a_missing_path_that_could_be_a_name_is_answered_with_it():
    with pytest.raises(RequestError, match="is written hf://datasets/openai/gsm8k"):
        find_files("openai/gsm8k")
