"""Kill a run at random moments, resume it, and compare; fork each run before there are threads."""

import os
import random
import shutil
import signal
import sys
import time

import torch
from image_folders import contents

from diffaug import HalfConcat, PromptEdit, RecordingBackend, augment_folder


def slowly(request, usual):
    time.sleep(0.001)
    return usual


def start(destination):
    child = os.fork()
    if child:
        return child
    try:
        transform = HalfConcat(PromptEdit(backend=RecordingBackend(16, answer=slowly)))
        augment_folder("photos", destination, transform, per_image=10, format="png")
        os._exit(0)
    finally:
        os._exit(1)


def main():
    torch.set_num_threads(1)
    os.chdir(sys.argv[1])
    began = time.monotonic()
    assert os.waitpid(start("whole"), 0)[1] == 0
    seconds = time.monotonic() - began
    assert len(contents("whole")) == 64
    chance, kills = random.Random(int(sys.argv[2])), 0
    while kills < 12:
        child = start("set")
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            assert contents("whole") == contents("set")
            shutil.rmtree("set")
        else:
            kills += 1
    assert os.waitpid(start("set"), 0)[1] == 0
    assert contents("whole") == contents("set")


if __name__ == "__main__":
    main()
