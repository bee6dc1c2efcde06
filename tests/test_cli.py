"""The command: what it prints and writes, and one line on bad input."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import kerasq
from kerasq import cli
from kerasq.keras import keras, keras_version
from kerasq.layers import CodebookConv2D, QuantConv2D


def _model():
    return keras.Sequential(
        [
            keras.layers.Input((6, 6, 3)),
            QuantConv2D(8, 3, kernel_quantizer="bwn"),
            CodebookConv2D(4, 1, subvector=4, codewords=4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model, saved and converted."""
    path = tmp_path_factory.mktemp("cli")
    model = _model()
    model.save(path / "model.keras")
    model.save(path / "model.h5")
    kerasq.convert(model, path / "model.tflite")
    return path


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command; return exit code, standard output and standard error."""

    def invoke(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kerasq", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capfd.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return invoke


def test_convert_calibrates_tables(run, folder, tmp_path, rng):
    x = rng.standard_normal((20, 6, 6, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    output = tmp_path / "out.tflite"
    code, _, err = run(
        "convert", folder / "model.keras", "-o", output, "--calibration", tmp_path / "x.npy"
    )
    assert code == 0, err
    operators = kerasq.inspect(output).operators
    assert [o.options["tables"] for o in operators if "Codebook" in o.name] == [1]


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_convert_writes_what_the_function_returns(run, folder, tmp_path, suffix):
    output, listing = tmp_path / "out.tflite", tmp_path / "out.json"
    code, out, _ = run("convert", folder / f"model.{suffix}", "-o", output, "--json", listing)
    assert code == 0
    assert "KerasqBitplaneConv2D" in out and "KerasqCodebookConv2D" in out
    assert json.loads(listing.read_text())["total_bytes"] == output.stat().st_size
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype(np.float32)
    expected = keras.models.load_model(folder / f"model.{suffix}", compile=False)(x)
    found = kerasq.Interpreter(model_path=output).predict(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_convert_reads_a_saved_model_where_keras_can(run, tmp_path):
    source, output = tmp_path / "saved", tmp_path / "out.tflite"
    if keras_version() == 3:
        source.mkdir()
        code, _, err = run("convert", source, "-o", output)
        assert code == 1 and "TF_USE_LEGACY_KERAS=1" in err
    else:
        _model().save(source, save_format="tf")
        assert run("convert", source, "-o", output)[0] == 0
        assert output.exists()


def test_inspect_lists_operators_and_bytes(run, folder, tmp_path):
    code, out, _ = run("inspect", folder / "model.tflite", "--json", tmp_path / "found.json")
    assert code == 0
    assert "KerasqCodebookConv2D" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum(row["bytes"] for row in found["operators"]) == found["total_bytes"]


def test_benchmark_gives_medians_and_the_ratio(run, folder, tmp_path):
    file, other = folder / "model.tflite", tmp_path / "other.tflite"
    kerasq.convert(keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]), other)
    listing = tmp_path / "times.json"
    code, out, _ = run("benchmark", file, "--vs", other, "--runs", 5, "--json", listing)
    assert code == 0
    assert "times faster" in out
    times = json.loads(listing.read_text())["microseconds"]
    assert set(times) == {str(file), str(other)}
    assert all(time["median"] > 0 and time["runs"] == 5 for time in times.values())


def test_benchmark_lists_operators(run, folder, tmp_path):
    file, listing = folder / "model.tflite", tmp_path / "operators.json"
    code, out, _ = run("benchmark", file, "--per-op", "--runs", 3, "--json", listing)
    assert code == 0
    assert "KerasqBitplaneConv2D" in out and "unattributed" in out and "XNNPACK" in out
    found = json.loads(listing.read_text())
    assert found["file"] == str(file) and found["whole"]["runs"] == 3
    parts = sum(row["microseconds"] or 0 for row in found["operators"])
    whole = parts + found["call"] + found["unattributed"]
    assert whole == pytest.approx(found["whole"]["median"])


BAD = {
    "no such command": (["bogus"], "No such command"),
    "no such option": (["inspect", "{tflite}", "--fast"], "No such option"),
    "missing argument": (["inspect"], "Missing argument"),
    "no such file": (["inspect", "{tmp}/absent.tflite"], "no such file"),
    "no tflite": (["inspect", "{keras}"], "not a .tflite file"),
    "no tflite to run": (["benchmark", "{keras}"], "no .tflite model"),
    "no runs": (["benchmark", "{tflite}", "--runs", "0"], "at least 1"),
    "no number": (["benchmark", "{tflite}", "--runs", "many"], "--runs"),
    "no tflite to take apart": (["benchmark", "{keras}", "--per-op"], "not a .tflite file"),
    "two files to take apart": (
        ["benchmark", "{tflite}", "--per-op", "--vs", "{tflite}"],
        "leave --vs away",
    ),
    "no runs of operators": (["benchmark", "{tflite}", "--per-op", "--runs", "0"], "at least 1"),
    "no model": (["convert", "{tflite}", "-o", "{tmp}/x.tflite"], "no saved Keras model"),
    "no output": (["convert", "{keras}"], "--output"),
    "no output folder": (["convert", "{keras}", "-o", "{tmp}/no/x.tflite"], "no folder"),
    "no array": (
        ["convert", "{keras}", "-o", "{tmp}/x.tflite", "--calibration", "{tflite}"],
        "no .npy file",
    ),
    "a folder as output": (["convert", "{keras}", "-o", "{tmp}"], "it is a folder"),
    "json into nowhere": (["inspect", "{tflite}", "--json", "{tmp}/no/x.json"], "no folder"),
    "weights without data": (["demo", "--weights", "{keras}"], "go together"),
    "no minutes": (["demo", "--minutes", "0"], "--minutes must be above 0"),
    "no images": (["demo", "--images", "0"], "--images must be at least 1"),
    "a file as folder": (["demo", "--out", "{keras}"], "names a folder"),
    "no archive": (["demo", "--data", "{keras}", "--weights", "{keras}"], "lacks the array"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(run, folder, tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[case]
    names = {"tflite": folder / "model.tflite", "keras": folder / "model.keras", "tmp": tmp_path}
    code, out, err = run(*(argument.format(**names) for argument in arguments))
    assert code not in (0, None)
    assert out == ""
    assert err.startswith("kerasq: error: ") and message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.glob("*.tflite")) == list(tmp_path.glob("*.json")) == []


def test_a_damaged_file(run, folder, tmp_path):
    content = (folder / "model.tflite").read_bytes()
    (tmp_path / "half.tflite").write_bytes(content[: len(content) // 2])
    code, _, err = run("inspect", tmp_path / "half.tflite")
    assert code == 1
    assert "damaged .tflite" in err and len(err.splitlines()) == 1


def test_a_model_of_the_other_keras(folder, run, tmp_path):
    other = tmp_path / "other.keras"
    with zipfile.ZipFile(other, "w") as archive:
        version = "3.4.1" if keras_version() == 2 else "2.17.0"
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
    code, _, err = run("convert", other, "-o", tmp_path / "x.tflite")
    assert code == 1
    assert f"TF_USE_LEGACY_KERAS={keras_version() - 2}" in err
    assert version in err and len(err.splitlines()) == 1


def test_no_arguments_print_the_help(run):
    code, out, err = run()
    assert code == 0 and err == ""
    for command in ("demo", "convert", "inspect", "benchmark"):
        assert command in out


def test_interrupting_ends_in_one_line(run, monkeypatch, folder):
    def interrupt(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_existing", interrupt)
    code, _, err = run("inspect", folder / "model.tflite")
    assert code == 130
    assert err == "kerasq: error: interrupted\n"


def test_a_process_of_its_own_has_one_line_on_standard_error(tmp_path):
    (tmp_path / "text.tflite").write_text("hello")
    command = [sys.executable, "-m", "kerasq.cli", "inspect", str(tmp_path / "text.tflite")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("kerasq: error: ") and len(done.stderr.splitlines()) == 1
