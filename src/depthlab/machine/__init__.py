"""The machine under the runs: files, processes, GPUs, memory. Nothing of depthlab is known here."""
