"""Distillation: losses that compare a small network with a large one, in the user's own loop.

Gradients go to the student alone (and to the regressor).
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compare the class probabilities of two networks, softened by a temperature.

    The Kullback-Leibler divergence of the student's from the teacher's, averaged over the batch and
    multiplied by the square of the temperature, so that its gradients do not shrink as the
    temperature rises. To be added to the loss of the true labels, each with a weight.

    Parameters
    ----------
    student, teacher : Tensor of floats, shape (n, n_classes)
        Logits: what goes into a softmax.
    temperature : float
        Positive; 1 compares the probabilities as they are, 2 to 10 also the small ones.

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    ValueError
        If the shapes differ or are not of two dimensions, or `temperature` is not positive.

    References
    ----------
    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Examples
    --------
    >>> import torch
    >>> from deepcomp.nn.distillation import soft_target_loss
    >>> student = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    >>> teacher = torch.tensor([[4.0, 1.0, 0.0]])
    >>> loss = soft_target_loss(student, teacher, temperature=4.0)
    >>> round(loss.item(), 3)
    0.814
    >>> loss.backward()
    """
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"the logits of student and teacher are {list(student.shape)} and "
            f"{list(teacher.shape)}: expected twice (n, n_classes)"
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature!r}: expected a positive number")
    wanted = F.softmax(teacher.detach() / temperature, 1)
    found = F.log_softmax(student / temperature, 1)
    return F.kl_div(found, wanted, reduction="batchmean") * temperature**2


def hint_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    regressor: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Compare what layers inside of two networks compute.

    The mean of the squared differences. Where the student is narrower, a regressor of yours maps
    its features to the teacher's width; it is trained as well, so give its parameters to the
    optimizer, and thrown away in the end.

    Parameters
    ----------
    student_features, teacher_features : Tensor of floats, shape (n, ...)
        Outputs of layers, as a forward hook gives them.
    regressor : nn.Module or callable, optional
        From student features to the shape of the teacher's: an ``nn.Linear``, or an ``nn.Conv2d``
        of 1 x 1 for images.

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    ValueError
        If the shapes differ, after the regressor if there is one.

    References
    ----------
    Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", ICLR
    2015, section 2.2.

    Examples
    --------
    >>> import torch
    >>> from deepcomp.nn.distillation import hint_loss
    >>> thin, wide = torch.zeros(8, 16, 5, 5), torch.ones(8, 64, 5, 5)
    >>> regressor = torch.nn.Conv2d(16, 64, 1)
    >>> hint_loss(thin, wide, regressor).backward()
    >>> regressor.bias.grad.shape
    torch.Size([64])
    >>> hint_loss(wide, wide - 2).item()
    4.0
    """
    mapped = student_features if regressor is None else regressor(student_features)
    if mapped.shape != teacher_features.shape:
        advice = ": give a regressor that maps one to the other" if regressor is None else ""
        what = "student's features" if regressor is None else "regressor's output"
        raise ValueError(
            f"the {what} are of shape {list(mapped.shape)}, expected that of the teacher's, "
            f"{list(teacher_features.shape)}{advice}"
        )
    return F.mse_loss(mapped, teacher_features.detach())
