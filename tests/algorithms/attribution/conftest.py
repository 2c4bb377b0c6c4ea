"""What gradient methods are judged against: the masked run itself, differentiated by its mask."""

import pytest
import torch
from vitcircuits.circuits import Ablation, Pairs, Task
from vitcircuits.circuits.masked_run import MaskWeights, masked_logits_from
from vitcircuits.circuits.tasks.metrics import Metric


def _task_on(vit, images, kind="partner", metric="logit_difference"):
    pairs = Pairs(images[:3], images[3:6]), Pairs(images[6:8], images[8:10])
    return Task(vit, Metric(metric, (0, 1), (2,)), *pairs, Ablation(kind))


@pytest.fixture(scope="session")
def task_on(images_for):
    """Makes a task of three pairs of random images on a model: `task_on(vit, "mean")`."""
    return lambda vit, kind="partner", metric="logit_difference": _task_on(vit, images_for(vit, 10), kind, metric)


def _mask_gradient(graph, task, mask, embedded, ablated):
    """d metric / d mask of every edge, mean over pairs, where the run starts from a residual in front of block 0."""
    vit, soft = task.vit, torch.as_tensor(mask).to(task.vit.dtype).requires_grad_(True)
    with vit.borrowed(), torch.enable_grad():
        logits = masked_logits_from(vit, MaskWeights.from_tensor(graph, soft), embedded, ablated)
        reference = vit.readout.logits(vit.run_blocks(vit.embed(task.discovery.clean))).detach()
        (found,) = torch.autograd.grad(task.metric(logits, reference).mean(), soft)
    return found.double().numpy()


@pytest.fixture(scope="session")
def mask_gradient():
    """The derivative of the masked run: `mask_gradient(graph, task, mask, embedded, ablated)`."""
    return _mask_gradient
