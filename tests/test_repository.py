"""The plan of ARCHITECTURE.md, as far as imports and file sizes tell."""

import ast
import itertools
import json
import subprocess
import sys

GROUND, STEPS, DATA, TOP = range(4)
FLOORS = {"models": GROUND, "weights": GROUND, "errors": GROUND, "cli": GROUND}
FLOORS |= {"machine": GROUND, "training": STEPS, "data": DATA}
FOREIGN = {  # who may import what does not come with avjax or brings flags and files with it
    "torch": (),
    "tensorflow": (),
    "facenet_pytorch": (),
    "absl": (TOP, DATA),
    "orbax": (TOP,),
    "matplotlib": (TOP, DATA),
    "av": (DATA,),
    "cv2": (DATA,),
    "librosa": (DATA,),
    "requests": (DATA,),
    "tensorflow_datasets": (DATA,),
}


def imports(path):
    """Modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "avjax":
                yield from (f"avjax.{alias.name}" for alias in node.names)


def package_files(root_dir):
    for path in sorted((root_dir / "avjax").rglob("*.py")):
        name = path.relative_to(root_dir / "avjax").parts[0].removesuffix(".py")
        yield path, name, FLOORS.get(name, TOP)


def test_files_import_from_their_floor_or_below(root_dir):
    wrong = []
    for path, name, floor in package_files(root_dir):
        for module in imports(path):
            top, _, rest = module.partition(".")
            target = FLOORS.get(rest.partition(".")[0], TOP) if rest else GROUND
            if top == "avjax" and target > floor:
                wrong.append(f"{path} imports {module}")
            allowed = FOREIGN.get(top)
            if allowed is not None and floor not in allowed and name != "cli":
                wrong.append(f"{path} imports {module}")
    assert not wrong


def test_configs_import_nothing_of_the_package(root_dir):
    for path in (root_dir / "configs").glob("*.py"):
        assert not [module for module in imports(path) if module.startswith("avjax")], path


def test_files_stay_below_400_lines(root_dir):
    folders = ("avjax", "configs", "tests", "tools")
    files = itertools.chain.from_iterable((root_dir / f).rglob("*.py") for f in folders)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 50
    assert {path: lines for path, lines in lengths.items() if lines >= 400} == {}


def loaded_by(statement, root_dir):
    """Modules in memory after a statement, and the flags that avjax defined by then."""
    code = (
        f"import json, sys\n{statement}\nfrom absl import flags\n"
        "defined = {flags.FLAGS.find_module_defining_flag(name) for name in flags.FLAGS}\n"
        "print(json.dumps([sorted(sys.modules), [x for x in defined if 'avjax' in x]]))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root_dir, check=True, capture_output=True, text=True)
    modules, flags = json.loads(result.stdout)
    return set(modules), flags


def test_importing_the_package_costs_nothing(root_dir):
    modules, _ = loaded_by("import avjax", root_dir)
    assert "avjax" in modules
    assert not {"jax", "numpy", "orbax"} & modules


def test_commands_define_no_global_flags_and_load_no_other_framework(root_dir):
    modules, flags = loaded_by(
        "import avjax.download, avjax.prepare, avjax.predict, avjax.train", root_dir
    )
    assert {"jax", "avjax.evaluate"} <= modules
    assert not {"torch", "tensorflow"} & modules
    assert flags == []
