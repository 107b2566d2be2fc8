"""One schema for flags, environment and file: which goes first, what errors say, and how fast help is."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from endoscope.cli import main
from endoscope_server.commands import serve
from endoscope_server.errors import InvalidInput
from endoscope_server.settings import PREFIX, Settings, flag_of, resolve

FIELDS = sorted(Settings.model_fields)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def _serve(*arguments: object) -> Result:
    return CliRunner().invoke(serve, [*map(str, arguments)])


def _file(folder: Path, text: str) -> Path:
    path = folder / "endoscope.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_a_flag_with_help(name: str) -> None:
    options = {option.name: option for option in serve.params}
    assert flag_of(name).name in options[name].opts
    assert len(Settings.model_fields[name].description or "") > 15
    assert flag_of(name).name in _serve("--help").output


def test_flags_go_before_the_environment_before_the_file_before_defaults(tmp_path, monkeypatch) -> None:
    file = _file(tmp_path, "concurrency = 7\nthreads = 7\ngrace = 7\n")
    monkeypatch.setenv("ENDOSCOPE_CONCURRENCY", "8")
    monkeypatch.setenv("ENDOSCOPE_THREADS", "8")
    resolved = resolve({"concurrency": "9"}, file)
    settings = resolved.settings
    assert (settings.concurrency, settings.threads, settings.grace, settings.engine) == (9, 8, 7.0, "local")
    assert resolved.sources == {
        "concurrency": "flag --concurrency",
        "threads": "environment variable ENDOSCOPE_THREADS",
        "grace": f"file {file}",
    }


def test_several_paths_from_each_source(tmp_path, monkeypatch) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    file = _file(tmp_path, f"datasets_roots = ['{folders[0]}', '{folders[1]}']")
    assert list(resolve({}, file).settings.datasets_roots) == folders
    flags = [word for folder in folders for word in ("--datasets-root", folder)]
    shown = tomllib.loads(_serve("--print-config", *flags).stdout)
    assert shown["datasets_roots"] == [*map(str, folders)]
    monkeypatch.setenv("ENDOSCOPE_DATASETS_ROOTS", os.pathsep.join(map(str, folders)))
    assert list(resolve({}).settings.datasets_roots) == folders


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concurrency = 0", ["concurrency", "endoscope.toml", "'0'", "greater than or equal to 1"]),
        ("grace = nan", ["grace", "endoscope.toml", "finite"]),
        ("models = '/nowhere'", ["models", "endoscope.toml", "'/nowhere'", "no folder"]),
        ("datasets_roots = ['/nowhere']", ["datasets_roots.0", "endoscope.toml", "'/nowhere'"]),
        ("modles = '/tmp'", ["modles", "endoscope.toml", "did you mean models?"]),
        ("[models]\npath = '/tmp'", ["models", "endoscope.toml", "not a valid path"]),
        ("grace = ", ["endoscope.toml", "no TOML", "end of document"]),
    ],
)
def test_errors_name_the_field_the_source_and_the_value(tmp_path, text: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve({}, _file(tmp_path, text))
    assert all(word in caught.value.message for word in words), caught.value.message


def test_all_errors_are_told_at_once_each_with_its_source(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ENDOSCOPE_THREADS", "many")
    done = _serve("--config", _file(tmp_path, "grace = -1"), "--concurrency", "none")
    assert done.exit_code == 2
    for words in (
        "concurrency (flag --concurrency): 'none'",
        "threads (environment variable ENDOSCOPE_THREADS): 'many'",
        f"grace (file {tmp_path / 'endoscope.toml'}): '-1'",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.output


def test_a_file_that_is_not_there_is_an_error(tmp_path) -> None:
    done = _serve("--config", tmp_path / "none.toml")
    assert done.exit_code == 2
    assert "none.toml" in done.stderr


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ENDOSCOPE_ENGINE", 'a "quoted" \\ ünusual\taddress')
    first = _serve("--print-config", "--models", tmp_path, "--concurrency", 3)
    assert first.exit_code == 0, first.output
    assert "# flag --concurrency\nconcurrency = 3" in first.stdout
    assert "# environment variable ENDOSCOPE_ENGINE\n" in first.stdout
    monkeypatch.delenv("ENDOSCOPE_ENGINE")
    second = _serve("--print-config", "--config", _file(tmp_path, first.stdout))
    assert tomllib.loads(second.stdout) == tomllib.loads(first.stdout)
    monkeypatch.setenv("ENDOSCOPE_CONFIG", str(tmp_path / "endoscope.toml"))
    assert tomllib.loads(_serve("--print-config").stdout) == tomllib.loads(first.stdout)


def test_an_empty_variable_is_none(monkeypatch) -> None:
    monkeypatch.setenv("ENDOSCOPE_MODELS", "")
    assert resolve({}).settings.models is None


def test_help_and_print_config_import_no_engine() -> None:
    script = (
        "import sys; from endoscope_server.commands import serve\n"
        "serve(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'sklearn', 'pyarrow', 'grpc'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    for argument in ("--help", "--print-config"):
        command = [sys.executable, "-c", script, argument]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_the_clients_variables_are_no_settings() -> None:
    root = click.Context(main)
    commands = [main.get_command(root, name) for name in main.list_commands(root)]
    variables = {
        str(parameter.envvar)
        for command in commands
        for found in [command, *getattr(command, "commands", {}).values()]
        for parameter in found.params
        if parameter.envvar and parameter.envvar != f"{PREFIX}CONFIG"
    }
    assert {"ENDOSCOPE_SERVER", "ENDOSCOPE_TOKEN", "ENDOSCOPE_TLS"} <= variables
    assert not variables & {f"{PREFIX}{name.upper()}" for name in FIELDS}


def test_torch_has_the_threads_that_it_is_given_and_they_soon_sleep_while_they_wait(tmp_path) -> None:
    script = (
        "import os, sys, threading\n"
        "from endoscope_server import commands\n"
        "assert 'torch' not in sys.modules\n"
        "prepare = commands._prepare_threads\n"
        "def prepared(settings):\n"
        "    assert 'torch' not in sys.modules, 'it has read how to wait already'\n"
        "    prepare(settings)\n"
        "    import torch\n"
        "    told = lambda: print(torch.get_num_threads(), os.environ.get('GOMP_SPINCOUNT'))\n"
        "    thread = threading.Thread(target=told)\n"
        "    thread.start(); thread.join(); sys.exit()\n"
        "commands._prepare_threads = prepared\n"
        "commands.serve(sys.argv[1:])\n"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    for count, given, spins in (
        (1, {}, "8000"),
        (2, {"GOMP_SPINCOUNT": "5"}, "5"),
        (3, {"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ):
        command = [sys.executable, "-c", script, "--torch-threads", str(count), "--state", str(tmp_path)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env={**bare, **given}
        )
        assert done.stdout.split() == [str(count), spins], done.stderr
