"""Run the notebooks headless and show what they found: `make run`, or `python tests/run_notebooks.py [NOTEBOOK ...]`.

The executed copies go to `build/`. A cell tagged `result` prints what a reader came for; that is shown again here. When
a cell raises, the exit code is 1 and the last line says which notebook and why.
"""

import json
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

NOTEBOOKS = ["233-blip-convert.ipynb", "233-blip-optimize.ipynb"]


def run_notebook(path: Path, output: Path) -> None:
    """Execute the notebook at `path` in the current folder, and save it with its outputs to `output`.

    Raises:
        CellExecutionError: a cell failed; what ran until then is saved all the same.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        record_timing=False,
        coalesce_streams=True,
        kernel_name="python3",
        resources={"metadata": {"path": "."}},
    )
    if os.name == "posix":
        # Local sockets, which other users cannot listen in on, in place of TCP ports.
        client.create_kernel_manager().transport = "ipc"
    try:
        client.execute()
    finally:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [each for each in cell.outputs if not is_gone(each.get("data", {}))]
        keep_shown_widgets(notebook)
        output.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, output)


def is_gone(data: NotebookNode) -> bool:
    """Whether an output is over with its kernel: the page of the demo, and progress bars, tqdm's and rich's."""
    plain = data.get("text/plain", "-")
    return "<iframe" in data.get("text/html", "") or "%|" in plain or plain in ("Output()", "")


def keep_shown_widgets(notebook: NotebookNode) -> None:
    """Forget the state of widgets that no output shows."""
    for saved in notebook.metadata.get("widgets", {}).values():
        shown = re.findall(r'"model_id": "(\w+)"', json.dumps(notebook.cells))
        kept = {}
        while shown:
            model = shown.pop()
            if model in saved.state and model not in kept:
                kept[model] = saved.state[model]
                shown += re.findall(r"IPY_MODEL_(\w+)", json.dumps(kept[model]))
        saved.state = kept


def results(notebook: NotebookNode) -> str:
    """What the cells tagged `result` printed, and the tables they showed."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and "result" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if output.output_type == "stream" and output.name == "stdout":
                    texts.append(output.text)
                elif "text/markdown" in output.get("data", {}):
                    texts.append(f"\n{output.data['text/markdown']}\n")
    return "".join(texts)


def main() -> None:
    for name in sys.argv[1:] or NOTEBOOKS:
        output = Path("build") / Path(name).name
        print(f"Running {name} ...", flush=True)
        try:
            run_notebook(Path(name).resolve(), output)
        except CellExecutionError as error:
            sys.exit(f"{name} stopped with {error.ename}: {error.evalue}")
        finally:
            print(results(nbformat.read(output, as_version=4)), flush=True)
        print(f"The executed notebook is {output}: open it to see the figures.")


if __name__ == "__main__":
    main()
