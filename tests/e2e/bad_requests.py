"""The table of bad requests: what was asked, and words that the answer must hold.

`python tests/e2e/bad_requests.py` answers them all and prints docs/errors.md.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

HEAVY = ("torch", "ray")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class BadRequest:
    """One mistake."""

    name: str
    argv: tuple[str, ...]
    said: tuple[str, ...]
    prepare: Callable[[], object] = lambda: None
    """Runs in a copy of `request_files`, before the request."""
    environ: Mapping[str, str] = field(default_factory=dict)
    on_paper: bool = False
    """Yaml and config.json are enough to see it, so no heavy library may be imported before the answer."""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    error: str


def answer(request: BadRequest) -> Answer:
    """Make the request in this process and in the working directory."""
    from mindrl.cli.main import main

    error = io.StringIO()
    on_termination = signal.getsignal(signal.SIGTERM)
    with patch.dict(os.environ, request.environ), contextlib.redirect_stderr(error):
        try:
            code = main(request.argv)
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, on_termination)
    return Answer(code, "".join(line for line in error.getvalue().splitlines(True) if not _is_noise(line)))


def _is_noise(line: str) -> bool:
    """Progress bars, and what libraries say of themselves when they are imported."""
    return "row/s" in line or "B/s" in line or "Triton" in line or "warn" in line.lower()


@contextlib.contextmanager
def copy_of(files: Path) -> Iterator[Path]:
    """Work in a copy of the files, which goes at the end."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "place"
        shutil.copytree(files, place)
        os.chdir(place)
        try:
            yield place
        finally:
            os.chdir(before)


def train(
    name: str,
    *overrides: str,
    said: str | tuple[str, ...],
    prepare: Callable[[], object] = lambda: None,
    environ: Mapping[str, str] | None = None,
    flags: tuple[str, ...] = ("--check",),
) -> BadRequest:
    """A run of run.yaml that only the machine, the files or the libraries can refuse."""
    argv = ("train", "run.yaml", *overrides, *flags)
    return BadRequest(name, argv, _words(said), prepare, environ or {})


def paper(
    name: str, *overrides: str, said: str | tuple[str, ...], prepare: Callable[[], object] = lambda: None
) -> BadRequest:
    """A run that yaml and config.json refuse."""
    return BadRequest(
        name, ("train", "run.yaml", *overrides, "--check"), _words(said), prepare, {}, on_paper=True
    )


def yaml(name: str, text: str | bytes, said: str | tuple[str, ...]) -> BadRequest:
    """A run of a yaml file with this text."""
    content = text.encode() if isinstance(text, str) else text
    argv = ("train", "bad.yaml", "--check")
    return BadRequest(
        name, argv, _words(said), lambda: Path("bad.yaml").write_bytes(content), {}, on_paper=True
    )


def over(name: str, section: str, said: str | tuple[str, ...]) -> BadRequest:
    """A yaml file that changes one section of run.yaml."""
    return yaml(name, f"defaults: [run.yaml]\n{section}\n", said)


def command(
    name: str, line: str, said: str | tuple[str, ...], prepare: Callable[[], object] = lambda: None
) -> BadRequest:
    """Any command line."""
    return BadRequest(name, tuple(line.split()), _words(said), prepare)


def _words(said: str | tuple[str, ...]) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else said


def set_json(path: str, **changes: Any) -> Callable[[], object]:
    """Change keys of a JSON file; None removes one."""

    def change() -> None:
        values = {**json.loads(Path(path).read_text()), **changes}
        Path(path).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return change


def other_router() -> None:
    """Put a model with experts in moe/, whose router does not normalise its scores."""
    shutil.copytree(ROOT / "configs/model/moonlight-16b-a3b", "moe")
    set_json("moe/config.json", norm_topk_prob=False)()


def shards() -> None:
    """Have model/ keep its weights in files that an index names, one of which is missing."""
    from safetensors.torch import load_file, save_file

    tensors = load_file("model/model.safetensors")
    Path("model/model.safetensors").unlink()
    places = {name: f"model-{number % 2 + 1:05d}-of-00002.safetensors" for number, name in enumerate(tensors)}
    first = "model-00001-of-00002.safetensors"
    save_file({name: tensors[name] for name in tensors if places[name] == first}, f"model/{first}")
    Path("model/model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def another_model(directory: str, **sizes: int) -> Callable[[], object]:
    """A second model of other sizes."""

    def write() -> None:
        import request_files

        request_files.write_model(Path(directory), **sizes)

    return write


def another_tokenizer() -> None:
    """Give the model a tokenizer with other ids."""
    values = json.loads(Path("model/tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    Path("model/tokenizer.json").write_text(json.dumps(values))


def damage(path: str, content: bytes = b"\x00garbage") -> Callable[[], object]:
    """Replace a file's content."""
    return lambda: Path(path).write_bytes(content)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
TO_MCORE = "convert --load-model-type hf --save-model-type mg --load-dir"
TO_HF = "convert --load-model-type mg --save-model-type hf --load-dir"
EVAL = "eval model --engine hf --dataset prompts.parquet --reward exact_match"

FILES = (
    BadRequest(
        "the configuration is not there", ("train", "run.yml", "--check"),
        ("run.yml: can't read", "No such file", "did you mean run.yaml?"), on_paper=True,
    ),
    BadRequest(
        "the configuration is a directory", ("train", "model", "--check"),
        ("model: can't read", "Is a directory"), on_paper=True,
    ),
    BadRequest(
        "the configuration of another command", ("train", "data.yaml", "--check"),
        ("data.yaml: has input, output_prefix", "keys of this command's file are hal, cluster, model"), on_paper=True,
    ),
    yaml("a yaml syntax error", "model: {path: model}\ndata:\n  train: [{path: x}\nactor: 3\n",
         ("bad.yaml, line 4, column 1: not valid yaml", "flow sequence that begins in line 3, column 10")),
    yaml("a tab in the yaml", "model:\n\tpath: model\n", "bad.yaml, line 2, column 1: not valid yaml: a tab"),
    yaml("a key twice", "trainer:\n  seed: 1\n  total_steps: 3\n  seed: 2\n",
         "bad.yaml, line 4, column 3: duplicate key: seed"),
    yaml("a section twice", "trainer: {seed: 1}\nactor: {}\ntrainer: {total_steps: 3}\n",
         "line 3, column 1: duplicate key: trainer"),
    yaml("an empty yaml", "# nothing\n", "bad.yaml: holds nothing"),
    yaml("a list for the whole yaml", "- actor\n- rollout\n", "found a list, expected sections"),
    yaml("a yaml that is no text", b"\xff\xfem\x00o\x00", "bad.yaml: can't read this configuration file: not UTF-8"),
    yaml("a yaml nested without end", "a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    yaml("a yaml that wants code run", 'a: !!python/object/apply:os.system ["true"]', "could not determine a constructor"),
    yaml("a base file that is not there", "defaults: [base.yaml]\n", ("bad.yaml: defaults: base.yaml: can't read",)),
    yaml("a file that builds on itself", "defaults: [bad.yaml]\n", "`defaults` leads back to this file"),
    yaml("base files that are no list", "defaults: run.yaml\nactor: {}\n", "defaults: found 'run.yaml', expected a list"),
)  # fmt: skip

VALUES = (
    over("a list where a section belongs", "actor: [1, 2]", "actor: found [1, 2], expected a section with"),
    over("a section where a list belongs", "data: {train: {path: x}}", "data.train: found {'path': 'x'}, expected a list"),
    over("a variable that is not set", "trainer: {total_steps: '${oc.env:MINDRL_UNSET}'}",
         ("trainer.total_steps: the environment variable MINDRL_UNSET is not set", "${oc.env:MINDRL_UNSET,default}")),
    over("a value of a key that is not there", "trainer: {total_steps: '${steps}'}",
         "trainer.total_steps: takes its value from steps, and there is no such key"),
    over("a value that is its own", "trainer: {total_steps: '${trainer.total_steps}'}", "takes its value from itself"),
    over("a value still to be given", "trainer: {total_steps: '???'}", "trainer.total_steps: holds ???"),
    paper("a path for a list of sets", "data.train=x.parquet", said="expected a list of sections with path, weight"),
    paper("text for a number", "trainer.total_steps=abc", said="trainer.total_steps: found 'abc', expected a valid integer"),
    paper("a comma in a number", "actor.optimizer.lr=1,5", said="actor.optimizer.lr: found '1,5', expected a valid number"),
    paper("a fraction of a step", "trainer.total_steps=1.5", said="trainer.total_steps: found 1.5"),
    paper("no value", "trainer.total_steps=", said="trainer.total_steps: found null"),
    paper("a truth value for a number", "trainer.total_steps=yes", said="trainer.total_steps: found true"),
    paper("a negative size", "rollout.n_samples=-4", said="rollout.n_samples: found -4, expected a number above 0"),
    paper("a size of zero", "actor.micro_batch_size=0", said="actor.micro_batch_size: found 0"),
    paper("a negative learning rate", "actor.optimizer.lr=-1", said="actor.optimizer.lr: found -1"),
    paper("NaN", "actor.optimizer.lr=.nan", said="actor.optimizer.lr: found nan, expected a finite number"),
    paper("infinity", "rollout.logprob_gap_stop=.inf", said="rollout.logprob_gap_stop: found inf"),
    paper("a seed that no library takes", "trainer.seed=99999999999999", said="trainer.seed: found 99999999999999"),
    paper("an unknown section", "rolout.n_samples=4", said="rolout: unknown key; did you mean rollout?"),
    paper("an unknown key", "actor.optimizer.learning_rates=1", said="actor.optimizer.learning_rates: unknown key"),
    paper("a key of another section", "actor.lr=1", said="did you mean actor.optimizer.lr?"),
    paper("an unknown choice", "actor.optimizer.name=sgd", said="actor.optimizer.name: found 'sgd', expected 'adamw'"),
    paper("an override without =", "trainer.seed", "1", said="override 'trainer.seed': expected key=value"),
    paper("an override with dashes", "--trainer.seed=1", said="keys of the yaml are given without dashes: trainer.seed=1"),
    paper("an override cut off", "data.train=[{path: x", said=("override 'data.train=[{path: x'", "not valid yaml")),
    paper("an override beyond a list", "data.train[3].path=x", said="override 'data.train[3].path=x': can't be applied"),
    paper("no name for a variable", "cluster.env={'A=B': c}", said="cluster.env: found the key 'A=B'"),
)  # fmt: skip

ARITHMETIC = (
    paper("samples of 1 with group normalisation", "rollout.n_samples=1", "actor.micro_batch_size=1",
          said="rollout.n_samples: with 1 response to a prompt there is no group"),
    paper("no reference, but a KL penalty", "reference=null", "algorithm.kl.coef=0.1",
          said="reference: null, but algorithm.kl.coef is 0.1"),
    paper("KL k1 in the loss", "algorithm.kl={estimator: k1, coef: 0.1}", said="algorithm.kl: k1 in the loss"),
    paper("rewards that all weigh nothing", "reward.functions=[{name: exact_match, weight: 0}]", said="reward.functions: the weight"),
    paper("a reward twice", "reward.functions=[{name: exact_match}, {name: exact_match}]", said="exact_match listed more than once"),
    paper("a rank without samples", "actor.micro_batch_size=16", said="can't be divided into micro-batches of 16 on each of 2"),
    paper("an engine without prompts", "cluster.devices_per_node=8", "actor.micro_batch_size=1",
          said="4 prompts leave some of the 8 rollout engines without one"),
    paper("mini-batches that do not divide the batch", "actor.mini_batch_size=3", "actor.micro_batch_size=1",
          said="actor.mini_batch_size: 3 prompts do not divide"),
    paper("an actor larger than the cluster", "actor.tensor_model_parallel_size=2", "actor.pipeline_model_parallel_size=2",
          said="2 devices (1 nodes x 2) can't be divided into copies of the actor"),
    paper("an engine larger than the cluster", "rollout.engine=auto", "rollout.tensor_parallel_size=4",
          said="rollout.tensor_parallel_size: 4 does not divide the 2 devices"),
    paper("tensor parallel against the heads", "actor.tensor_model_parallel_size=8", "cluster.devices_per_node=8",
          "trainer.global_batch_size=8", "actor.mini_batch_size=8", said="the model's 4 attention heads can't be divided among 8"),
    paper("engines against the heads", "rollout.engine=auto", "rollout.tensor_parallel_size=8", "cluster.devices_per_node=8",
          "trainer.global_batch_size=8", "actor.mini_batch_size=8",
          said="rollout.tensor_parallel_size: the model's 4 attention heads can't be divided among 8"),
    paper("pipeline stages against the layers", "actor.pipeline_model_parallel_size=3", "cluster.devices_per_node=3",
          said="the model's 2 layers can't be divided into 3 stages"),
    paper("interleaved pipeline stages", "actor.transformer_config={virtual_pipeline_model_parallel_size: 2}",
          said="actor.transformer_config.virtual_pipeline_model_parallel_size: can't be set"),
    paper("uneven stages without stages", "actor.transformer_config={num_layers_in_first_pipeline_stage: 1}",
          said="actor.pipeline_model_parallel_size is 1"),
    paper("recomputation in pieces of no layers", "actor.transformer_config={recompute_granularity: full, recompute_method: uniform, recompute_num_layers: 0}",
          said="recompute_num_layers: found 0, expected a number of layers above 0"),
    paper("recomputation of an unknown module", "actor.transformer_config={recompute_granularity: selective, recompute_modules: [attn]}",
          said="recompute_modules: found 'attn', expected some of core_attn"),
    paper("context parallel against the devices", "actor.context_parallel_size=4", said=("can't be divided into copies of the actor", "actor.context_parallel_size 4")),
    paper("experts of a dense model", "actor.expert_model_parallel_size=2", said="actor.expert_model_parallel_size: found 2, and the model has no experts"),
    paper("expert parallel against the devices", "actor.expert_model_parallel_size=3", said="actor.expert_model_parallel_size: 3"),
    paper("sequence parallel without tensor parallel", "actor.sequence_parallel=true", said="actor.tensor_model_parallel_size is 1"),
    paper("longer than the model's positions", "data.max_response_length=4000",
          said="16 + 4000 tokens are more than the model's max_position_embeddings, 64"),
    paper("sampling that is not the policy's", "rollout.top_p=0.9", said="rollout.top_p, rollout.top_k: found 0.9 and -1"),
    paper("evaluation without prompts", "trainer.eval_interval=5", said="trainer.eval_interval: evaluation every 5 steps has no prompts"),
    paper("a warm-up longer than the run", "actor.lr_schedule.warmup_steps=9", said="9 steps are more than trainer.total_steps, 3"),
)  # fmt: skip

MODEL = (
    paper("a model of the hub by name", "model.path=Qwen/Qwen2.5-7B", said=("model.path: there is no directory Qwen/Qwen2.5-7B", "--local-dir Qwen/Qwen2.5-7B")),
    paper("a file for the model", "model.path=model/config.json", said="model.path: model/config.json is a file"),
    paper("an unknown family", said=("model_type 'mamba'", "llama, qwen2, qwen3"), prepare=set_json("model/config.json", model_type="mamba")),
    paper("a router that can't be trained", "model.path=moe", "data.max_prompt_length=8",
          said=("norm_topk_prob false with num_experts_per_tok 6", "Megatron-core does not compute"), prepare=other_router),
    paper("a router that can't be trained, not downloaded either", "model.path=not-there", "model.architecture=moe",
          said="norm_topk_prob false with num_experts_per_tok 6", prepare=other_router),
    paper("a billion layers", said="num_hidden_layers is 1000000000", prepare=set_json("model/config.json", num_hidden_layers=10**9)),
    paper("a config.json cut off", said="model/config.json is not valid JSON", prepare=damage("model/config.json", b'{"model_type"')),
    paper("a Git LFS pointer for config.json", said="git lfs pull", prepare=damage("model/config.json", LFS)),
    train("a Git LFS pointer for weights", said=("model.path: model/model.safetensors", "git lfs pull"), prepare=damage("model/model.safetensors", LFS)),
    train("a missing shard of the model", said=("model.path", "model-00002-of-00002.safetensors"), prepare=shards),
    train("weights of another model", said=("model.path", "config.json makes it (32, 32)"),
          prepare=set_json("model/config.json", intermediate_size=64, hidden_size=32, num_key_value_heads=4)),
    train("no weights", said="model.path: model holds no .safetensors file", prepare=lambda: Path("model/model.safetensors").unlink()),
    train("no checkpoint", "model.checkpoint=nowhere", said="model.checkpoint: nowhere is not a checkpoint directory"),
    train("a checkpoint of another model", "model.checkpoint=mcore", "model.path=wide", "data.train=[{path: prompts.parquet}]",
          said=("model.checkpoint: Checkpoint tensor", "config.json wants"), prepare=another_model("wide", intermediate_size=128)),
    train("a checkpoint whose files are lost", "model.checkpoint=mcore", said=("which the checkpoint's metadata names, can't be read", "Copy or convert the checkpoint again"),
          prepare=lambda: [path.unlink() for path in Path("mcore/release").glob("*.distcp")]),
    train("a model that never ends", said="names an eos_token_id", prepare=lambda: (
          set_json("model/config.json", eos_token_id=None)(), set_json("model/generation_config.json", eos_token_id=None)())),
    train("an end that is no token", said="eos_token_id 5000 in model is no token of the model",
          prepare=set_json("model/config.json", eos_token_id=5000)),
    train("a tokenizer of another model", said="They belong to different models",
          prepare=lambda: another_model("model", hidden_size=32)() or set_json("model/config.json", vocab_size=100)()),
    train("no tokenizer", said="tokenizer", prepare=lambda: [path.unlink() for path in Path("model").glob("*token*")]),
)  # fmt: skip

RUN = (
    train("no data set", "data.train=[{path: nowhere.parquet}]", said=("data set nowhere.parquet", "mindrl preprocess")),
    train("a data set that was not preprocessed", "data.train=[{path: rows.jsonl}]", said="data set rows.jsonl"),
    train("a directory for a data set", "data.train=[{path: model}]", said="data set model"),
    train("a damaged data set", said="data set prompts.parquet: can't be read", prepare=damage("prompts.parquet")),
    train("a data set of another tokenizer", said="the model's tokenizer in model is another", prepare=another_tokenizer),
    train("prompts longer than allowed", "data.max_prompt_length=2", said="its longest prompt has 4 tokens, data.max_prompt_length is 2"),
    train("an unknown reward", "reward.functions=[{name: exact_mach}]", said="did you mean exact_match?"),
    train("a reward that can't be imported", "reward.functions=[{name: 'nowhere:f'}]", said="can't import nowhere"),
    train("a reward that is none", "reward.functions=[{name: 'os:system'}]", said="reward function 'os:system': is a function of Python itself"),
    train("a reward with other arguments", "reward.functions=[{name: 'textwrap:dedent'}]", said="takes (text)"),
    train("an unknown device", "hal.accelerator=abacus", said=("accelerator 'abacus' was asked for", "cpu: usable")),
    train("a configuration for another device", "hal.accelerator=virtual-device", said="cpu: usable"),
    train("an unknown kernel", "hal.kernels={attention: nonsense}", said=("'nonsense' was asked for", "Choose one of")),
    train("a kernel for no operation", "hal.kernels={atention: torch_sdpa}", said="atention; ops are"),
    train("an unknown field for Megatron", "actor.transformer_config={hidden_dropuot: 0.1}", said="did you mean actor.transformer_config.hidden_dropout?"),
    train("a field of the wrong type for Megatron", "actor.transformer_config={attention_dropout: x}", said="attention_dropout: found 'x', expected a number"),
    train("engine arguments without that engine", "rollout.engine_args={max_num_seqs: 3}", said="remove them"),
    train("replaying what is no run", "rollout.engine=replay", "rollout.replay_from=mcore", said="rollout.replay_from: mcore holds no config.yaml"),
    train("replaying a run that recorded nothing", "rollout.engine=replay", "rollout.replay_from=earlier",
          said=("no samples of step(s) 1, 2, 3 of 3", "trainer.sample_interval=1"),
          prepare=lambda: (Path("earlier").mkdir(), shutil.copy("run.yaml", "earlier/config.yaml"))),
    train("more processes than memory", "cluster.devices_per_node=100000", "trainer.global_batch_size=100000", "actor.mini_batch_size=100000",
          said="100000 worker processes and 1 that score take"),
    train("an output directory that holds a run", said=("trainer.output_dir: run already holds a run", "--overwrite"),
          prepare=lambda: (Path("run").mkdir(), Path("run/metrics.jsonl").write_text("{}\n"))),
    train("a file for the output directory", "trainer.output_dir=run.yaml", said="trainer.output_dir: run.yaml is a file"),
    train("the model for the output directory", "trainer.output_dir=model", said="trainer.output_dir: model is what the run starts from"),
    train("an output directory that can't be written", "trainer.output_dir=/proc/run", said="trainer.output_dir /proc/run: /proc can't be written"),
    train("an output directory behind a broken link", "trainer.output_dir=link/run", said="trainer.output_dir", prepare=lambda: os.symlink("nowhere", "link")),
    train("W&B without a key", "logging.enable_wandb=true", said="set WANDB_API_KEY",
          environ={"WANDB_MODE": "online", "WANDB_API_KEY": "", "NETRC": "/nowhere"}),
    train("W&B without a network", "logging.enable_wandb=true", said=("http://127.0.0.1:9 can't be reached", "WANDB_MODE=offline"),
          environ={"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "no_proxy": "*"}),
    train("W&B in a mode that is none", "logging.enable_wandb=true", said="WANDB_MODE is 'later'", environ={"WANDB_MODE": "later"}),
    train("several nodes without a cluster", "cluster.num_nodes=2", "trainer.global_batch_size=8", "actor.mini_batch_size=8",
          said="RAY_ADDRESS is not set", environ={"RAY_ADDRESS": ""}, flags=()),
    train("a cluster that is not there", said=("RAY_ADDRESS names a Ray at 127.0.0.1:9", "connection refused"),
          environ={"RAY_ADDRESS": "127.0.0.1:9"}, flags=()),
    train("resuming what has not begun", said="run", flags=("--resume", "--check")),
    BadRequest("resuming and replacing at once", ("train", "run.yaml", "--resume", "--overwrite"), ("give one of them",), on_paper=True),
)  # fmt: skip

OTHER_COMMANDS = (
    command("an unknown command", "trian run.yaml", "did you mean `mindrl train`?"),
    command("no configuration", "train", "required: CONFIG"),
    command("preprocess: no input", "preprocess data.yaml input=nowhere.jsonl", "nowhere.jsonl"),
    command("preprocess: a kind of file it does not read", "preprocess data.yaml input=run.yaml", "input run.yaml"),
    command("preprocess: an empty folder", "preprocess data.yaml input=empty", "input empty", lambda: Path("empty").mkdir()),
    command("preprocess: a damaged parquet", "preprocess data.yaml input=bad.parquet", "bad.parquet", lambda: Path("bad.parquet").write_bytes(b"PAR1")),
    command("preprocess: a column that is not there", "preprocess data.yaml map_keys.prompt=problem", ("problem", "question, answer")),
    command("preprocess: every prompt is too long", "preprocess data.yaml seq_length=2", "8 too_long"),
    command("preprocess: no answer in any row", "preprocess data.yaml handler_name=gsm8k", "8 no_answer"),
    command("preprocess: an unknown handler", "preprocess data.yaml handler_name=gsm", "gsm8k"),
    command("preprocess: an unknown template", "preprocess data.yaml prompt_type=qwenn", "did you mean qwen?"),
    command("preprocess: a template of another model", "preprocess data.yaml prompt_type=qwen_math_r1", "special token <|im_start|>"),
    command("preprocess: a handler that is none", "preprocess data.yaml handler_name=os:system", "a function of (row, map_keys)"),
    command("preprocess: a handler with other arguments", "preprocess data.yaml handler_name=textwrap:dedent", "takes (text)"),
    command("preprocess: a templates file that is none", "preprocess data.yaml prompt_type_path=rows.jsonl", "prompt_type_path rows.jsonl: Invalid JSON"),
    command("preprocess: a Git LFS pointer for the tokenizer", "preprocess data.yaml", "git lfs pull", damage("model/tokenizer.json", LFS)),
    command("preprocess: no tokenizer", "preprocess data.yaml", "tokenizer model: holds neither tokenizer.json", lambda: [path.unlink() for path in Path("model").glob("*token*")]),
    command("preprocess: no chat template", "preprocess data.yaml prompt_type=chat", "no chat template"),
    command("preprocess: an output that exists", "preprocess data.yaml output_prefix=prompts", ("prompts.parquet", "--overwrite")),
    command("preprocess: an output that can't be", "preprocess data.yaml output_prefix=run.yaml/x", "run.yaml is not a directory"),
    command("convert: a source that is not there", f"{TO_MCORE} nowhere --save-dir new", "--load-dir nowhere is not a directory"),
    command("convert: from hf to hf", "convert --load-model-type hf --save-model-type hf --load-dir model --save-dir new", "are both hf"),
    command("convert: a checkpoint for a model", f"{TO_MCORE} mcore --save-dir new", "mcore/config.json does not exist"),
    command("convert: a model for a checkpoint", f"{TO_HF} model --save-dir new", "model is not a checkpoint directory"),
    command("convert: over its source", f"{TO_MCORE} model --save-dir model", "the source is never replaced"),
    command("convert: over a result", f"{TO_MCORE} model --save-dir mcore", "--overwrite"),
    command("convert: a size that is none", f"{TO_MCORE} model --save-dir new --target-tensor-parallel-size x", "found 'x', expected a positive whole number"),
    command("convert: a missing shard", f"{TO_MCORE} model --save-dir new", "model-00002-of-00002.safetensors", shards),
    command("convert: pickled weights only", f"{TO_MCORE} model --save-dir new", "safetensors",
            lambda: Path("model/model.safetensors").rename("model/pytorch_model.bin")),
    command("convert: a billion layers", f"{TO_MCORE} model --save-dir new", "num_hidden_layers is 1000000000",
            set_json("model/config.json", num_hidden_layers=10**9)),
    command("convert: quantised weights", f"{TO_MCORE} model --save-dir new", "quantization_config",
            set_json("model/config.json", quantization_config={"bits": 4})),
    command("convert: another model's config", f"{TO_HF} mcore --save-dir new --hf-dir wide", "config.json wants", another_model("wide", intermediate_size=128)),
    command("eval: no model", EVAL.replace("model", "nowhere", 1), "nowhere"),
    command("eval: an unknown reward", EVAL.replace("exact_match", "exact_mach"), "did you mean exact_match?"),
    command("eval: greedy samples", f"{EVAL} --n-samples 4", "temperature"),
    command("eval: longer than the context", f"{EVAL} --max-response-length 100000", "100000"),
    command("eval: a temperature that is none", f"{EVAL} --temperature nan", "--temperature nan"),
    command("eval: figures over the data", f"{EVAL} --output prompts.json", "is the data set"),
    command("eval: a Git LFS pointer for weights", EVAL, "git lfs pull", damage("model/model.safetensors", LFS)),
    command("plan: no model", "plan run.yaml model.path=nowhere", "set model.architecture"),
    command("plan: no such architecture", "plan run.yaml model.path=nowhere model.architecture=qwen9", "model.architecture: qwen9 is neither"),
    command("plan: another model's architecture", "plan run.yaml model.architecture=configs/model/qwen2.5-7b", "describes another model than model.path"),
    command("report: no run", "report model", "model holds no run"),
    command("report: a file", "report run.yaml", "run.yaml is not a directory"),
    command("doctor: an unknown device", "doctor --accelerator abacus", "cpu: usable"),
)  # fmt: skip

REQUESTS = {
    request.name: request for request in (*FILES, *VALUES, *ARITHMETIC, *MODEL, *RUN, *OTHER_COMMANDS)
}


def page(files: Path) -> str:
    """docs/errors.md: every request with the first lines of its answer."""
    rows: list[str] = []
    for request in REQUESTS.values():
        with copy_of(files) as place:
            request.prepare()
            given = answer(request)
        said = (
            given.error[given.error.find("mindrl ") :]
            if "usage:" not in given.error
            else given.error.split("error: ")[1]
        )
        text = re.sub(r"^mindrl \w+: ", "", said).replace(str(place), "...").replace(str(ROOT), "...")
        shown = " ".join(line.strip() for line in text.splitlines()[:2])
        shown = f"{shown[:237]}..." if len(shown) > 240 else shown
        rows.append(f"| {request.name} | {given.code} | {_cell(shown)} |")
    return "\n".join([HEAD, "| request | code | answer begins |", "|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|').replace('`', chr(39))}`"


HEAD = """\
# Answers to bad requests

Written by `python tests/e2e/bad_requests.py > docs/errors.md`; `tests/e2e/test_bad_requests.py` holds every request to its
answer: exit code 2, no traceback, nothing written, and what is wrong with the yaml is told before torch or Ray is
imported.
"""


def _main() -> None:
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    import request_files

    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(sys.stderr):
        os.chdir(directory)
        request_files.write_files(Path(directory))
        text = page(Path(directory))
    print(text, end="")


if __name__ == "__main__":
    _main()
