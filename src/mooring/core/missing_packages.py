"""What is said where a package is not installed: one sentence that ends in the command which installs it.

Every backend, handler, command and the client asks here, so that a package is called the same everywhere.
"""

import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

# The extra of ours that brings a module's package, with all that belongs to it.
_EXTRAS: Mapping[str, str] = {
    "captum": "torch",
    "cryptography": "tls",
    "onnxruntime": "onnx",
    "ray": "ray",
    "torch": "torch",
    "transformers": "llm",
}
# Modules whose package is called otherwise.
_PACKAGES: Mapping[str, str] = {
    "Crypto": "pycryptodome",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "pillow",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "git": "gitpython",
    "google.protobuf": "protobuf",
    "grpc": "grpcio",
    "hydra": "hydra-core",
    "jwt": "pyjwt",
    "llama_cpp": "llama-cpp-python",
    "magic": "python-magic",
    "pkg_resources": "setuptools",
    "psycopg2": "psycopg2-binary",
    "pytorch_lightning": "pytorch-lightning",
    "sentence_transformers": "sentence-transformers",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "snappy": "python-snappy",
    "umap": "umap-learn",
    "whisper": "openai-whisper",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
_OURS = Path(__file__).parents[1]
# What modules are called by people.
_TITLES: Mapping[str, str] = {
    "PIL": "Pillow",
    "captum": "Captum",
    "httpx": "httpx",
    "onnxruntime": "ONNX Runtime",
    "ray": "Ray",
    "torch": "PyTorch",
}


def package_of(module: str) -> str:
    """The package that brings a module.

    >>> package_of("sklearn.linear_model")
    'scikit-learn'
    """
    top = module.partition(".")[0]
    return _PACKAGES.get(module) or _PACKAGES.get(top) or top


def install_command(module: str) -> str:
    """The command that installs a module's package, quoted for every shell.

    >>> install_command("torch.nn")
    'pip install "mooring[torch]"'
    """
    extra = _EXTRAS.get(module.partition(".")[0])
    return f'pip install "mooring[{extra}]"' if extra else f"pip install {package_of(module)}"


def describe_need(module: str) -> tuple[str, str]:
    """The name of a package for people, and the command that installs it."""
    return _TITLES.get(module, package_of(module)), install_command(module)


def missing_package(what: str, module: str) -> str:
    r"""Say that something needs a package which is not installed, and how it is installed.

    >>> missing_package("model 'net'", "onnxruntime")
    'model \'net\' needs ONNX Runtime, which is not installed: pip install "mooring[onnx]"'
    """
    title, command = describe_need(module)
    return f"{what} needs {title}, which is not installed: {command}"


def install_hint(error: BaseException) -> str:
    """Return what to write behind an error of a model's call whose import was not found; empty for any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    if error.name.partition(".")[0] in sys.stdlib_module_names:
        return ""
    return f"; {install_command(error.name)}"


def explain_missing_module(error: ModuleNotFoundError, folder: Path) -> str:
    """Say which line of a model's code imports what is not there, and what to do.

    ``folder`` is that of the model's files, which are named by their path in it.
    """
    module = error.name or ""
    top = module.partition(".")[0]
    where = _importing_line(error, folder)
    said = f"{where} imports '{module}'" if where else f"the model needs {describe_need(module)[0]}"
    if top in sys.stdlib_module_names:
        return f"{said}, a part of Python that this installation of it lacks"
    if top != module and _is_installed(top):
        return f"{said}, which the installed {package_of(top)} does not have: another version of it may, or the name is misspelt"
    local = _similar_file(top, folder)
    if local:
        return f"{said}, and there is no such module; did you mean {local}?"
    return f"{said}, which is not installed: {install_command(module)}"


def _importing_line(error: BaseException, folder: Path) -> str:
    """The line of the import: of the model's own code, else of the library that imports it; empty for a file of ours."""
    own = last = ""
    for frame in _frames(error):
        path = Path(frame.filename)
        if path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts:
            own = f"{path.relative_to(folder)}:{frame.lineno}"
        elif not frame.filename.startswith("<"):
            last = "" if path.is_relative_to(_OURS) else f"{path.name}:{frame.lineno}"
    return own or last


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    """The frames of an error, outermost first, without those of Python's own import system."""
    for frame in traceback.extract_tb(error.__traceback__):
        if "importlib" not in Path(frame.filename).parts:
            yield frame


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _similar_file(module: str, folder: Path) -> str:
    """The module beside the model's file that is called almost so; empty where there is none."""
    from difflib import get_close_matches  # noqa: PLC0415 - for the one who has misspelt a name

    try:
        names = [each.stem for each in folder.iterdir() if each.suffix == ".py" or each.is_dir()]
    except OSError:
        return ""
    close = get_close_matches(module, [name for name in names if name != module], 1, 0.8)
    return close[0] if close else ""
