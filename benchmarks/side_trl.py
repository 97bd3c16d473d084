"""TRL's side of benchmarks.throughput, in a process of its own: DPOTrainer over pairs that are token ids already.

Everything is as DPOTrainer does it for precompute_ref_log_probs; only tokenising is left out, and time is taken.
"""

import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from benchmarks.measure import Result, forget_peak, peak_memory

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


def run(job: dict[str, Any]) -> Result:
    """Time one phase over job["pairs"], of which the first step's worth is warm-up."""
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        return _reference(job, folder) if job["phase"] == "reference" else _train(job, folder)


class _Trainer(DPOTrainer):
    """Takes pairs that are token ids, and their reference log-probs where they have them."""

    def __init__(self, job: dict[str, Any], rows: list[dict[str, Any]], folder: str, **options: Any):
        self.job, self.result = job, Result()
        settings = job["settings"]
        super().__init__(
            model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
            train_dataset=Dataset.from_list(rows),
            args=DPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=job["peer_checkpointing"],
                precompute_ref_log_probs=True,
                max_length=None,
                per_device_train_batch_size=job["batch"],
                train_sampling_strategy="sequential",
                num_train_epochs=1,
                beta=settings["beta"],
                learning_rate=settings["learning_rate"],
                lr_scheduler_type="constant",
                optim="adamw_torch_fused",
                adam_beta1=settings["adam_betas"][0],
                adam_beta2=settings["adam_betas"][1],
                weight_decay=settings["weight_decay"],
                max_grad_norm=settings["max_grad_norm"],
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            **options,
        )

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *arguments: Any) -> Dataset:
        if COLUMNS[0] in dataset.column_names:
            return dataset
        batch = self.job["batch"]
        forget_peak()
        warmup = self.data_collator([dataset[i] for i in range(batch)])
        warmed = torch.stack(self.compute_ref_log_probs(self.model, warmup), dim=1).tolist()
        started = time.perf_counter()
        timed = super()._precompute_ref_logps(dataset.select(range(batch, len(dataset))), *arguments)
        seconds = time.perf_counter() - started
        logps = warmed + [list(pair) for pair in zip(*(timed[name] for name in COLUMNS), strict=True)]
        self.result = {"seconds": seconds, "peak_memory_mib": peak_memory(), "logps": logps}
        return timed


class _Clock(TrainerCallback):
    """When each optimiser step ended, and what was logged of it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, *_: Any, **given: Any) -> None:
        if "loss" in given["logs"]:
            self.losses.append(float(given["logs"]["loss"]))


def _reference(job: dict[str, Any], folder: str) -> Result:
    return _Trainer(job, job["pairs"], folder).result


def _train(job: dict[str, Any], folder: str) -> Result:
    rows = [
        pair | dict(zip(COLUMNS, logps, strict=True)) for pair, logps in zip(job["pairs"], job["logps"], strict=True)
    ]
    clock = _Clock()
    trainer = _Trainer(job, rows, folder, callbacks=[clock])
    forget_peak()
    trainer.train()
    seconds = clock.ends[-1] - clock.ends[0]
    return {"seconds": seconds, "peak_memory_mib": peak_memory(), "losses": clock.losses}
