"""Environment variables of launch scripts: other systems' names for ours, and what the rest of theirs is here.

A table of docs/migration.md shows them to people.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mindrl.errors import RequestError

SYNONYMS = {
    "NNODES": ("NUM_NODES",),
    "NPUS_PER_NODE": ("GPUS_PER_NODE", "NGPUS_PER_NODE", "NGPUS_PER_NODES", "NPROC_PER_NODE"),
    "MASTER_ADDR": ("MASTER_IP", "MLP_WORKER_0_HOST"),
    "CURRENT_IP": ("NODE_IP",),
    "SOCKET_IFNAME": ("MLP_SOCKET_IFNAME",),
    "NODE_RANK": ("RANK",),
}
"""Ours -> names with the same meaning elsewhere; they are honoured, and a line says so."""

ANSWERS = {
    "MODEL_PATH": "give model.path=...",
    "HF_MODEL_PATH": "give model.path=...",
    "DIST_CKPT_PATH": "give model.checkpoint=...",
    "TRAIN_FILE": "give data.train=[{path: ...}]",
    "TEST_FILE": "give data.eval=[{path: ...}]",
    "CKPTS_DIR": "give trainer.output_dir=...",
    "WORLD_SIZE": "give NNODES if it counts nodes; processes are NNODES x NPUS_PER_NODE",
}
"""Variables of established launch scripts without effect here, and what has the effect."""


@dataclass(frozen=True, slots=True)
class Variables:
    """The launch variables under our names, and what there is to say about the others."""

    values: Mapping[str, str]
    notices: tuple[str, ...]

    def get(self, name: str) -> str | None:
        """A variable's value; None where it is unset or empty."""
        return self.values.get(name) or None

    def count(self, name: str, what: str) -> int | None:
        """A variable that counts something; `RequestError` where it is no such number."""
        text = self.get(name)
        if text is None:
            return None
        if not text.isdecimal() or int(text) < 1:
            raise RequestError(f"{name} is {text!r}; give a number: {what}")
        return int(text)


def read_variables(environ: Mapping[str, str]) -> Variables:
    """Our variables, taken from other names where ours are unset; `RequestError` where two names disagree."""
    values = dict(environ)
    notices: list[str] = []
    for ours, others in SYNONYMS.items():
        for other in others:
            theirs = environ.get(other)
            if not theirs:
                continue
            if not values.get(ours):
                values[ours] = theirs
                notices.append(f"{other}={theirs} is taken as {ours}")
            elif values[ours] != theirs:
                raise RequestError(f"{ours} is {values[ours]} and {other} is {theirs}; set one of them")
    notices += [
        f"{name} has no effect; {answer}"
        for name, answer in ANSWERS.items()
        if environ.get(name) and not (name == "WORLD_SIZE" and environ[name] in ("1", values.get("NNODES")))
    ]
    return Variables(values, tuple(notices))
