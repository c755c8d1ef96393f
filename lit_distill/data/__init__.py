"""DataModules for the configs and tests; bring your own for anything else."""

from lit_distill.data.base import ImageDataModule
from lit_distill.data.cifar import CIFAR10, CIFAR100
from lit_distill.data.digit_tasks import DigitTasks
from lit_distill.data.digits import Digits
from lit_distill.data.fashion_mnist import FashionMNIST
from lit_distill.data.image_folder import ImageFolder

__all__ = ["CIFAR10", "CIFAR100", "DigitTasks", "Digits", "FashionMNIST", "ImageDataModule", "ImageFolder"]
