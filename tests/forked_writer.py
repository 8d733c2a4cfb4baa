"""A process with everything imported that converts and quantizes in forked children, to be killed or kept from writing.

Importing takes many seconds, a fork none. Of OpenVINO the parent compiles nothing: its threads would not survive a
fork. It reads a JSON request a line and answers it with a JSON line.
"""

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from conftest import EMBEDDED
from transformers import BlipConfig, BlipForQuestionAnswering, BlipProcessor

from blip_openvino.ir import convert as blip_convert
from blip_openvino.ir.convert import convert, convert_text_decoder, convert_text_encoder, convert_vision_model
from blip_openvino.ir.optimize import easy_vqa_calibration, optimize

NOBODY = 65534


def tiny_model(seed: int) -> BlipForQuestionAnswering:
    """Random weights in one layer each, for the embedded model's images and vocabulary: converted in moments."""
    config = BlipConfig.from_pretrained(EMBEDDED)
    for part in (config.vision_config, config.text_config):
        part.hidden_size, part.intermediate_size, part.num_hidden_layers, part.num_attention_heads = 32, 64, 1, 2
        part.initializer_range = 0.3
    config.text_config.encoder_hidden_size = 32
    torch.manual_seed(seed)
    return BlipForQuestionAnswering(config).eval()


class Writer:
    """Two tiny models, converted in memory too, and what is done with them in a child."""

    def __init__(self):
        torch.set_num_threads(1)  # as OpenVINO's threads, so PyTorch's
        self.processor = BlipProcessor.from_pretrained(EMBEDDED)
        self.models = {seed: tiny_model(seed) for seed in (1, 2)}
        self.converted = {
            seed: (
                convert_vision_model(model.vision_model),
                convert_text_encoder(model.text_encoder),
                convert_text_decoder(model.text_decoder),
            )
            for seed, model in self.models.items()
        }

    def do(self, task: str, folder: str, seed: int) -> None:
        """Convert, only save what a conversion makes, or quantize."""
        if task == "optimize":
            optimize(folder, easy_vqa_calibration(4))
            return
        if task == "save":
            names = ("convert_vision_model", "convert_text_encoder", "convert_text_decoder")
            for name, made in zip(names, self.converted[seed], strict=True):
                setattr(blip_convert, name, lambda *modules, made=made: made)
        convert(self.models[seed], self.processor, folder)

    def child(self, request: dict, output: int) -> None:
        """Do what is asked for within its limits; never returns."""
        status = 1
        try:
            os.dup2(output, 1)
            os.dup2(output, 2)
            if "file_size" in request:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing more is an error then, not the end
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
            if request.get("nobody") and os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            if "kill_at_step" in request:
                kill_at_step(request["kill_at_step"], request["folder"])
            self.do(request["task"], request["folder"], request.get("seed", 1))
            status = 0
        except Exception as error:
            print(*traceback.format_exception_only(error))  # in full it could pass the limit on a file's size
        finally:
            sys.stdout.flush()
            os._exit(status)

    def answer(self, request: dict) -> dict:
        """How the child ended (its exit status, or minus the signal), after how many seconds, and what it printed."""
        with tempfile.TemporaryFile() as output:
            start = time.monotonic()
            process = os.fork()
            if process == 0:
                self.child(request, output.fileno())
            deadline = start + request.get("kill_after", 120)
            while not (ended := os.waitpid(process, os.WNOHANG))[0]:
                if time.monotonic() > deadline:
                    os.kill(process, signal.SIGKILL)
                    ended = os.waitpid(process, 0)
                    break
                time.sleep(0.001)
            seconds = time.monotonic() - start
            output.seek(0)
            printed = output.read().decode(errors="replace")
        return {"status": os.waitstatus_to_exitcode(ended[1]), "seconds": seconds, "printed": printed}


def kill_at_step(step: int, folder: str) -> None:
    """Have this process killed when Python is about to do its `step`-th operation on files in `folder`."""
    left = step

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            path = arguments[0]
            if isinstance(path, str | Path) and str(path).startswith(folder):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    writer = Writer()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(writer.answer(json.loads(line))), file=answers, flush=True)
