"""Doctor and server agree: what doctor says runs is loaded, and what it says needs a change is not, and nothing else.

One folder with every kind of repository model and of archive that there is, right and wrong, is shown to both.
"""

import io
import json
import re
import stat
import tarfile
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import requests
from e2e_kit import PATIENCE, Server, until
from onnx import TensorProto, helper, numpy_helper

from mooring.doctor.examination import examine_place

ANSWERS = "def infer(inputs):\n    return {'y': 1}\n"
HANDLER = "def handle(data, context):\n    return ['ok' for _ in data or ()]\n"
RUNS = re.compile(r"model (\S+) (\S+) runs as it is")


class Link(msgspec.Struct, frozen=True):
    """A symbolic link; ``releases`` is a folder outside of store and repository."""

    target: str


def add_model() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "b"], ["y"])], "g",
        [value("x", TensorProto.FLOAT, ["N", 1])], [value("y", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "b")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


ONNX = add_model()
PBTXT = 'backend: "python"\n'
AMD = 'platform: "python"\nversions: ["1"]\ninputs { name: "x" datatype: "FP32" shape: 1 }\n'
TENSORS = 'input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }'
ENSEMBLE = (
    f'platform: "ensemble" max_batch_size: 2 {TENSORS} ensemble_scheduling {{ step {{ model_name: "%s" model_version: -1 '
    'input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }'
)


def versions(*numbers):
    return {f"{number}/model.py": ANSWERS for number in numbers}


# A folder of the repository -> the files in it, and the versions that are served of it.
SERVED = {
    "function": (versions(1), "1"),
    "latest-without-a-configuration": (versions(1, 2, 10), "10"),
    "version-zero": (versions(0), "0"),
    "onnx": ({"1/model.onnx": ONNX}, "1"),
    "onnx-of-any-name": ({"1/net.onnx": ONNX}, "1"),
    "other-folders-beside": (versions(3) | {"assets/logo.txt": "", ".git/config": "", "warmup/x.raw": ""}, "3"),
    "toml-all": (versions(1, 2) | {"config.toml": ""}, "1 2"),
    "toml-all-said": (versions(1, 2) | {"config.toml": "[version_policy]\nall = true"}, "1 2"),
    "toml-latest": (versions(1, 9, 10) | {"config.toml": "[version_policy]\nlatest = 2"}, "9 10"),
    "toml-specific": (versions(1, 2, 3) | {"config.toml": "[version_policy]\nspecific = [1, 3, 7]"}, "1 3"),
    "toml-entry": ({"1/own.py": ANSWERS, "config.toml": 'entry = "own.py"'}, "1"),
    "toml-labels": (versions(1) | {"config.toml": 'labels = "names.txt"', "names.txt": "cat\ndog\n"}, "1"),
    "pbtxt-nothing-said": (versions(1, 2) | {"config.pbtxt": PBTXT}, "2"),
    "pbtxt-named": (versions(1) | {"config.pbtxt": PBTXT + 'name: "pbtxt-named"'}, "1"),
    "pbtxt-latest": (versions(1, 2, 3) | {"config.pbtxt": PBTXT + "version_policy { latest { num_versions: 2 } }"}, "2 3"),
    "pbtxt-specific": (versions(1, 2) | {"config.pbtxt": PBTXT + "version_policy { specific { versions: [ 1 ] } }"}, "1"),
    "pbtxt-all": (versions(1, 2) | {"config.pbtxt": PBTXT + "version_policy { all { } }"}, "1 2"),
    "pbtxt-reshape": (versions(1) | {"config.pbtxt": PBTXT + TENSORS.replace("[ 1 ] }", "[ 1 ] reshape { shape: [ ] } optional: true }", 1)}, "1"),
    "pbtxt-queue-policy": (versions(1) | {"config.pbtxt": PBTXT + "dynamic_batching { priority_levels: 2 default_priority_level: 1 default_queue_policy { timeout_action: DELAY max_queue_size: 2 } }"}, "1"),
    "pbtxt-decoupled": (versions(1) | {"config.pbtxt": PBTXT + "model_transaction_policy { decoupled: true }"}, "1"),
    "pbtxt-what-tunes": (versions(1) | {"config.pbtxt": PBTXT + "optimization { graph { level: 1 } } response_cache { enable: true }"}, "1"),
    "pbtxt-scalar": (versions(1) | {"config.pbtxt": PBTXT + TENSORS.replace("[ 1 ]", "[ ]")}, "1"),
    "pbtxt-ensemble": ({"1/": "", "config.pbtxt": ENSEMBLE % "pbtxt-batched"}, "1"),
    "pbtxt-batched": (versions(1) | {"config.pbtxt": PBTXT + TENSORS + "max_batch_size: 4"}, "1"),
    "amd": (versions(1, 2) | {"config.pbtxt": AMD}, "1 2"),
    "builtin": ({"config.toml": 'platform = "builtin"\nentry = "echo"'}, "1"),
    "flat-python": ({"model.py": ANSWERS}, "1"),
    "flat-onnx": ({"model.onnx": ONNX}, "1"),
    "flat-onnx-of-any-name": ({"net.onnx": ONNX, "README.md": "read me"}, "1"),
    "flat-configured": ({"net.onnx": ONNX, "config.toml": 'platform = "onnx"'}, "1"),
    "flat-entry": ({"a.onnx": ONNX, "b.onnx": ONNX, "config.toml": 'entry = "b.onnx"'}, "1"),
    "linked-whole": (Link("releases/41"), "1"),
    "linked-flat": (Link("releases/flat"), "1"),
    "linked-through-a-link": (Link("installed/repository/..data/41"), "1"),
    "linked-version": ({"1": Link("releases/41/1")}, "1"),
    "linked-file": ({"1/model.py": Link("releases/41/1/model.py")}, "1"),
    "linked-entry": ({"1/own.py": Link("releases/41/1/model.py"), "config.toml": 'entry = "own.py"'}, "1"),
    "zeros-beside-a-version": (versions(2) | {"002/model.py": ANSWERS}, "2"),
}  # fmt: skip

# A folder of the repository of which nothing is served -> the files in it, and a part of the reason.
REFUSED = {
    "empty": ({}, "is empty"),
    "onnx-of-another-shape": ({"1/model.onnx": ONNX, "config.pbtxt": 'backend: "onnxruntime"\nmax_batch_size: 4\n' + TENSORS.replace("[ 1 ]", "[ 3 ]", 1)}, "declares input 'x' as FP32 [-1, 3]"),
    "onnx-of-another-name": ({"1/model.onnx": ONNX, "config.toml": 'outputs = [{name="z", datatype="FP32", shape=[-1, 1]}]'}, "declares output 'z'"),
    "onnx-truncated": ({"1/model.onnx": ONNX[:40]}, "cannot be loaded"),
    "documents": ({"README.md": "read me"}, "expected a file such as documents/1/model.py"),
    "nested": ({"bert/1/model.py": ANSWERS}, "move nested/bert up"),
    "nested-flat": ({"bert/model.onnx": ONNX}, "rename nested-flat/bert to nested-flat/1"),
    "two-files": ({"a.onnx": ONNX, "b.onnx": ONNX}, "a.onnx or b.onnx"),
    "named-v1": ({"v1/model.py": ANSWERS}, "rename named-v1/v1"),
    "only-zeros": ({"001/model.py": ANSWERS}, "rename only-zeros/001 to only-zeros/1"),
    "mlserver": ({"model-settings.json": '{"name": "mlserver"}', "model.joblib": ""}, "MLServer's"),
    "unpacked-archive": ({"MAR-INF/MANIFEST.json": "{}", "handler.py": HANDLER}, "unpacked archive"),
    "handler-folder": ({"handler.py": HANDLER, "model.pt": ""}, "unpacked archive"),
    "no-file": ({"1/notes.txt": ""}, "no model.py"),
    "empty-version": ({"1/": ""}, "no model.py"),
    "saved-model": ({"1/saved_model.pb": ""}, "no model.py"),
    "is_dangling_link": (Link("nowhere"), "leads nowhere"),
    "is_dangling_link-version": ({"1": Link("nowhere")}, "leads nowhere"),
    "is_dangling_link-file": ({"1/model.onnx": Link("nowhere")}, "no model.py"),
    "a-loop": (Link("installed/repository/a-loop"), "leads nowhere"),
    "toml-typo": (versions(1) | {"config.toml": "max_batchsize = 4"}, "max_batchsize"),
    "toml-typo-below": (versions(1) | {"config.toml": "[batching]\nmax_delay = 4"}, "max_delay"),
    "toml-broken": (versions(1) | {"config.toml": "name = "}, "Invalid value (at"),
    "toml-two-policies": (versions(1) | {"config.toml": "[version_policy]\nlatest = 1\nall = true"}, "one of latest"),
    "toml-no-such-version": (versions(1) | {"config.toml": "[version_policy]\nspecific = [9]"}, "there is 1"),
    "toml-no-such-entry": (versions(1) | {"config.toml": 'entry = "gone.py"'}, "gone.py"),
    "toml-entry-leads-out": (versions(1) | {"config.toml": 'entry = "../../function/1/model.py"'}, "is not in it"),
    "toml-absolute-entry": (versions(1) | {"config.toml": 'entry = "/etc/passwd"'}, "is not in it"),
    "toml-no-such-labels": (versions(1) | {"config.toml": 'labels = "gone.txt"'}, "gone.txt"),
    "toml-platform": (versions(1) | {"config.toml": 'platform = "tensorflow"'}, "unknown platform"),
    "toml-number-too-large": (versions(1) | {"config.toml": f"[parameters]\na = {10**30}"}, "parameters.a"),
    "toml-time-without-end": (versions(1) | {"config.toml": "startup_timeout = inf"}, "startup_timeout"),
    "toml-workers": (versions(1) | {"config.toml": "[workers]\nmin = 3\nmax = 2"}, "workers.min"),
    "pbtxt-typo": (versions(1) | {"config.pbtxt": PBTXT + "max_batchsize: 4"}, "max_batchsize"),
    "pbtxt-typo-below": (versions(1) | {"config.pbtxt": PBTXT + "version_policy { latest { num_version: 1 } }"}, "num_version"),
    "pbtxt-two-policies": (versions(1) | {"config.pbtxt": PBTXT + "version_policy { latest { } all { } }"}, "latest"),
    "pbtxt-typo-in-an-input": (versions(1) | {"config.pbtxt": TENSORS.replace("dims", "dimensions", 1)}, "dimensions"),
    "pbtxt-typo-in-batching": (versions(1) | {"config.pbtxt": PBTXT + "dynamic_batching { max_delay: 1 }"}, "max_delay"),
    "pbtxt-ragged": (versions(1) | {"config.pbtxt": TENSORS.replace("dims", "allow_ragged_batch: true dims", 1)}, "ragged"),
    "pbtxt-state": (versions(1) | {"config.pbtxt": PBTXT + "sequence_batching { state { } }"}, "state"),
    "pbtxt-agents": (versions(1) | {"config.pbtxt": PBTXT + "model_repository_agents { }"}, "agents"),
    "pbtxt-operators": (versions(1) | {"config.pbtxt": PBTXT + 'model_operations { op_library_filename: "a.so" }'}, "operators"),
    "pbtxt-reshape-of-another-size": (versions(1) | {"config.pbtxt": TENSORS.replace("[ 1 ] }", "[ 1 ] reshape { shape: [ 2 ] } }", 1)}, "reshape"),
    "pbtxt-no-dims": (versions(1) | {"config.pbtxt": TENSORS.replace("dims: [ 1 ]", "", 1)}, "dims is missing"),
    "pbtxt-no-such-priority": (versions(1) | {"config.pbtxt": PBTXT + "dynamic_batching { priority_levels: 2 default_priority_level: 3 }"}, "priority"),
    "pbtxt-all-passive": (versions(1) | {"config.pbtxt": PBTXT + "instance_group { passive: true }"}, "passive"),
    "pbtxt-no-such-version": (versions(1) | {"config.pbtxt": PBTXT + "version_policy { specific { versions: 2 } }"}, "there is 1"),
    "pbtxt-other-name": (versions(1) | {"config.pbtxt": PBTXT + 'name: "somebody-else"'}, "the folder's is"),
    "pbtxt-ensemble-of-no-platform": (versions(1) | {"config.pbtxt": f"{TENSORS} ensemble_scheduling {{ step [ ] }}"}, "platform 'ensemble'"),
    "pbtxt-ensemble-of-nobody": ({"1/": "", "config.pbtxt": ENSEMBLE % "nobody"}, "step 'nobody'"),
    "pbtxt-ensemble-of-other-tensors": ({"1/": "", "config.pbtxt": ENSEMBLE.replace("FP32", "INT32") % "pbtxt-batched"}, "tensor 'x' is INT32 in model"),
    "pbtxt-datatype": (versions(1) | {"config.pbtxt": TENSORS.replace("TYPE_FP32", "TYPE_COLOR")}, "COLOR"),
}  # fmt: skip

# A folder of the repository of which some versions are served -> the files, the versions, a part of the reason.
PARTLY = {
    "one-version-empty": (versions(1) | {"2/": "", "config.toml": ""}, "1", "no model.py"),
    "one-version-of-two-files": (
        versions(2)
        | {"1/a.onnx": ONNX, "1/b.onnx": ONNX, "config.pbtxt": PBTXT + "version_policy { all { } }"},
        "2",
        "no model.py",
    ),
}


def manifest(name, **model):
    said = {"modelName": name, "modelVersion": "1.0", "handler": "handler.py"} | model
    return json.dumps({"runtime": "python", "model": said})


def archive(name, said=None, more=None):
    """A .mar with a manifest, which ``said`` may stand in for, and a handler."""
    files = {"MAR-INF/MANIFEST.json": said or manifest(name), "handler.py": HANDLER} | (more or {})
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for file, text in files.items():
            entry = zipfile.ZipInfo(file)
            kind = stat.S_IFLNK if isinstance(text, Link) else stat.S_IFREG
            entry.external_attr = (kind | 0o644) << 16
            made.writestr(entry, text.target if isinstance(text, Link) else text)
    return content.getvalue()


def tarred(name):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as made:
        member = tarfile.TarInfo(f"{name}/handler.py")
        member.size = len(HANDLER)
        made.addfile(member, io.BytesIO(HANDLER.encode()))
    return content.getvalue()


def unpacked(name):
    return {"MAR-INF/MANIFEST.json": manifest(name), "handler.py": HANDLER}


# An entry of the store -> its content, and the version that is served, or a part of the reason why none is.
STORE = {
    "plain.mar": (archive("plain"), "1.0"),
    "numbered.mar": (archive("numbered", manifest("numbered", modelVersion="2")), "2"),
    "tarred.tar.gz": (tarred("tarred"), "1.0"),
    "linked.mar": (Link("releases/linked.mar"), "1.0"),
    "unpacked": (unpacked("unpacked"), "1.0"),
    "linkedfolder": (Link("releases/linkedfolder"), "1.0"),
    "rubbish.mar": (b"nothing", "neither a zip"),
    "is_dangling_link.mar": (Link("nowhere.mar"), "leads nowhere"),
    "wayup.mar": (archive("wayup", more={"../../escaped.py": ""}), "leads out"),
    "linkinside.mar": (archive("linkinside", more={"out": Link("/etc/passwd")}), "is a link"),
    "nojson.mar": (archive("nojson", "{"), "cannot be read"),
    "java.mar": (archive("java", '{"runtime": "java", "model": {"handler": "handler.py"}}'), "runtime 'java'"),
    "badname.mar": (archive("badname", manifest("a/b")), "cannot be the name"),
    "noconfig.mar": (archive("noconfig", manifest("noconfig", configFile="gone.yaml")), "gone.yaml"),
    "losthandler.mar": (archive("losthandler", manifest("losthandler", handler="gone.py")), "gone"),
}  # fmt: skip

# What links lead to.
RELEASES = {
    "41": {"1/model.py": ANSWERS},
    "flat": {"model.onnx": ONNX},
    "linked.mar": archive("linked"),
    "linkedfolder": unpacked("linkedfolder"),
}


def write(root: Path, place: Path, content) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Link):
        place.symlink_to(root / content.target)
    elif isinstance(content, dict):
        place.mkdir(exist_ok=True)
        for name, inner in content.items():
            write(root, place / name, {} if name.endswith("/") else inner)
    else:
        data = content.encode() if isinstance(content, str) else content
        place.write_bytes(data)


class Verdict(msgspec.Struct, frozen=True):
    """What is said of an entry: the versions that are served, and whether anything of it is not, and why."""

    served: str
    reasons: tuple[str, ...]

    @property
    def refused(self) -> bool:
        return bool(self.reasons)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for folder, entries in (("repository", SERVED | REFUSED | PARTLY), ("store", STORE)):
        for name, (content, *_) in entries.items():
            write(root, root / "installed" / folder / name, content)
    write(root, root / "releases", RELEASES)
    write(root, root / "installed" / "repository" / "..data", Link("releases"))
    return root


@pytest.fixture(scope="module")
def doctors(root):
    """What doctor says, by entry."""
    findings = examine_place(root / "installed").findings

    def verdict(entry):
        own = [each for each in findings if f"{each.where}/".startswith((f"{entry}/", f"{entry}:"))]
        found = [RUNS.match(each.what) for each in own if each.verdict == "runs"]
        served = sorted({match[2] for match in found if match}, key=float)
        return Verdict(" ".join(served), tuple(each.what for each in own if each.verdict == "change"))

    return verdict


@pytest.fixture(scope="module")
def servers(root, tmp_path_factory):
    """What the server makes of it, by entry."""
    server = Server(
        tmp_path_factory.mktemp("server"), "--model-repository", root / "installed" / "repository",
        "--model-store", root / "installed" / "store", "--models", "all", "--no-strict-readiness",
        "--default-workers-per-model", "1",
    )  # fmt: skip
    try:
        server.started(ping=500)
        until(lambda: requests.get(f"{server.url}/v2/health/ready", timeout=PATIENCE).status_code == 200)
        index = requests.post(f"{server.url}/v2/repository/index", timeout=PATIENCE).json()
    finally:
        server.kill()

    def verdict(entry):
        name = Path(entry).name.partition(".")[0]
        own = [each for each in index if each["name"] == name]
        served = sorted((each["version"] for each in own if each["state"] == "READY"), key=float)
        return Verdict(" ".join(served), tuple(each["reason"] for each in own if each["state"] != "READY"))

    return verdict


ENTRIES = [
    *((f"repository/{name}", versions, "") for name, (_, versions) in SERVED.items()),
    *((f"repository/{name}", "", reason) for name, (_, reason) in REFUSED.items()),
    *(
        (f"store/{name}", *((said, "") if said[0].isdigit() else ("", said)))
        for name, (_, said) in STORE.items()
    ),
]


def test_the_corpus_is_large_enough_to_mean_something():
    assert len(ENTRIES) >= 60


@pytest.mark.parametrize(("entry", "served", "reason"), ENTRIES, ids=[entry for entry, _, _ in ENTRIES])
def test_doctor_and_server_say_the_same_of(doctors, servers, entry, served, reason):
    for found in (doctors(entry), servers(entry)):
        assert (found.served, found.refused) == (served, bool(reason)), found
        assert reason in " ".join(found.reasons)
