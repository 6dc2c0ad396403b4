"""Checks the rules of ARCHITECTURE.md for imports and file sizes; checks documents and links."""

import ast
import itertools
import json
import re
import subprocess
import sys

import pytest

from avjax.config import RunConfig
from avjax.runs.run_config import flatten

# Files import only from their own room and the rooms before it.
ROOMS = (
    *("ground", "models", "weights", "data", "preparation", "training", "runs", "predictions"),
    *("serving", "commands"),
)
FOLDERS = {"runtime": "ground", "errors": "ground", "cli": "ground"}
FOREIGN = {  # rooms that may import a library with files, flags or a framework
    "torch": (),
    "tensorflow": (),
    "facenet_pytorch": (),
    "absl": ("commands",),
    "ml_collections": ("commands",),
    "orbax": ("runs",),
    "matplotlib": ("runs", "predictions", "serving"),
    "tensorboardX": ("runs",),
    "av": ("preparation", "predictions", "serving"),
    "cv2": ("preparation", "predictions", "serving"),
    "gradio": ("serving",),
    "fastapi": ("serving",),
    "starlette": ("serving",),
    "uvicorn": ("commands",),
    "librosa": ("preparation",),
    "soundfile": ("preparation",),
    "requests": ("preparation",),
    "tensorflow_datasets": ("data",),
}
EXCEPTIONS = {  # the command line's module, and the barrier between hosts
    ("cli.py", "absl"),
    ("multihost.py", "absl"),
    ("multihost.py", "orbax.checkpoint"),
}


def imports(path):
    """Yields all modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "avjax":
                yield from (f"avjax.{alias.name}" for alias in node.names)


def room(name):
    """Returns the room of a file or folder directly below the package."""
    return FOLDERS.get(name, name if name in ROOMS else "commands")


def test_imports_run_downward(root_dir):
    violations = []
    package = root_dir / "avjax"
    for path in sorted(package.rglob("*.py")):
        importer = room(path.relative_to(package).parts[0].removesuffix(".py"))
        for module in imports(path):
            top, _, submodule = module.partition(".")
            if top == "avjax" and submodule:
                forbidden = ROOMS.index(room(submodule.partition(".")[0])) > ROOMS.index(importer)
            else:
                forbidden = (
                    importer not in FOREIGN.get(top, ROOMS)
                    and (path.name, module) not in EXCEPTIONS
                )
            if forbidden:
                violations.append(f"{path.relative_to(package)} imports {module}")
    assert violations == []


def test_configs_do_not_import_avjax(root_dir):
    for path in (root_dir / "configs").glob("*.py"):
        assert not [module for module in imports(path) if module.startswith("avjax")], path


def test_files_stay_below_400_lines(root_dir):
    folders = ("avjax", "configs", "tests", "tools")
    files = itertools.chain.from_iterable((root_dir / f).rglob("*.py") for f in folders)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 50
    assert {path: lines for path, lines in lengths.items() if lines >= 400} == {}


def run_statement(statement, root_dir):
    """Returns the modules loaded by a statement, and avjax modules that defined global flags."""
    code = (
        f"import json, sys\n{statement}\nfrom absl import flags\n"
        "defined = {flags.FLAGS.find_module_defining_flag(name) for name in flags.FLAGS}\n"
        "print(json.dumps([sorted(sys.modules), [x for x in defined if 'avjax' in x]]))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root_dir, check=True, capture_output=True, text=True)
    modules, flags = json.loads(result.stdout)
    return set(modules), flags


def test_importing_the_package_loads_no_library(root_dir):
    modules, _ = run_statement("import avjax", root_dir)
    assert "avjax" in modules
    assert not {"jax", "numpy", "orbax"} & modules


def test_commands_define_no_global_flags_and_import_no_other_framework(root_dir):
    modules, flags = run_statement(
        "import avjax.download, avjax.prepare, avjax.predict, avjax.train", root_dir
    )
    assert {"jax", "avjax.evaluate"} <= modules
    assert not {"torch", "tensorflow"} & modules
    assert flags == []


def documents(root_dir):
    """Returns the repository's Markdown files by path."""
    paths = [*root_dir.glob("*.md"), *(root_dir / "docs").glob("*.md")]
    return {path: path.read_text(encoding="utf-8") for path in sorted(paths)}


def without_code(text):
    """Removes code blocks, which hold no links and no headings."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """Returns GitHub's anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(root_dir):
    """Yields relative links to missing files or headings, as document and target."""
    texts = documents(root_dir)
    for path, text in texts.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
            file, _, anchor = link.partition("#")
            if "://" in link:
                continue
            target = (path.parent / file).resolve() if file else path
            if not target.exists() or (anchor and anchor not in anchors(texts[target])):
                yield f"{path.name}: {link}"


def test_links_between_documents_resolve(root_dir):
    assert list(broken_links(root_dir)) == []


def test_readme_stays_short(root_dir):
    lines = (root_dir / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 160
    assert [line for line in lines if len(line) > 110] == []


@pytest.mark.parametrize("kind", ["audio_visual", "log_mel"])
def test_every_config_key_is_documented(root_dir, kind):
    tree = {"model": {"kind": kind}, "mask": "nodropout"}
    text = (root_dir / "docs" / "training.md").read_text(encoding="utf-8")
    keys = flatten(RunConfig.from_tree(tree).to_tree())
    assert [key for key in keys if f"`{key}`" not in text] == []
