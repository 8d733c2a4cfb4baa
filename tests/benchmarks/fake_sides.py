"""A side that computes nothing, and does wrong what the first word of its variant says."""

import os
import signal
from types import SimpleNamespace

import numpy as np

from benchmarks.sides import Side


class Fake(Side):
    def __init__(self, folder, variant, properties):
        self.wrong = variant.split()[0]

    def answer(self, image, question, laps, **settings):
        return self.generate(1 if self.wrong == "narrow" else len(question["input_ids"]), laps, **settings)

    def caption(self, pixel_values, laps, **settings):
        if self.wrong == "raises":
            raise ValueError("captions are\nbeyond it")
        return self.generate(len(pixel_values), laps, **settings)

    def generate(self, rows, laps, new_tokens=0, num_beams=1, **settings):
        if self.wrong == "dies" and num_beams > 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        laps.lap()
        length = 1 + settings["max_new_tokens"] - (self.wrong == "short")
        for _ in range(length if "streamer" in settings else 0):
            laps.put(None)
        tokens = np.full((rows, length), 7)
        if not settings.get("return_dict_in_generate"):
            return tokens
        logits = np.arange(1000.0) + 100 * (self.wrong == "off")
        if self.wrong == "later":  # right at first
            self.wrong = "off"
        return SimpleNamespace(sequences=tokens, logits=[[logits]])

    def preprocess(self, jpeg):
        return np.arange(3 * 8 * 8.0).reshape(1, 3, 8, 8)

    def tokenize(self, question):
        return {"input_ids": np.zeros((1, 4), np.int64)}

    def decode(self, ids):
        return ""
