"""Own a model's process and two workers of a loader, say so, and wait to be killed."""

import time

from model_processes import Photos
from tiny_pipelines import tiny_spec
from torch.utils.data import DataLoader

from diffaug import PromptEdit


def main():
    edit = PromptEdit(["snowy"], backend=tiny_spec("edit"), cache=False)
    loader = DataLoader(Photos(edit), 1, num_workers=2, persistent_workers=True)
    list(loader)
    print("ready", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
